// SPDX-License-Identifier: Apache-2.0

// Command chart draws a stored run: how many times better Fairlead does than each other
// contestant, case by case, as SVG and PNG. It is a separate program, so that fairlead does
// not have to carry fonts.
package main

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/plotutil"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"

	"github.com/fairlead-net/fairlead/bench/report"
)

func main() {
	out := flag.String("out", ".", "directory of the charts")
	flag.Parse()
	if flag.NArg() != 1 {
		fmt.Fprintln(os.Stderr, "usage: chart [-out DIR] RUN.json")
		os.Exit(2)
	}
	if err := run(flag.Arg(0), *out); err != nil {
		fmt.Fprintln(os.Stderr, "chart:", err)
		os.Exit(1)
	}
}

func run(path, out string) error {
	f, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("open run: %w", err)
	}
	defer f.Close()
	r, err := report.Read(f)
	if err != nil {
		return err
	}
	for _, c := range []struct {
		name, title string
		measures    []string
	}{
		{"latency", "Latency: times lower with Fairlead (median of paired ratios, range)", []string{"p50"}},
		{"rate", "Rate and throughput: times higher with Fairlead (median of paired ratios, range)", []string{"rate", "gbps"}},
	} {
		if err := drawChart(r, c.title, c.measures, filepath.Join(out, c.name)); err != nil {
			return fmt.Errorf("draw %s: %w", c.name, err)
		}
	}
	return nil
}

// series is the points of one contestant: x is how many times better Fairlead is, y the row
// of the case.
type series struct {
	plotter.XYs
	plotter.XErrors
}

// drawChart writes path.svg and path.png.
func drawChart(r *report.Run, title string, measures []string, path string) error {
	var rows []string
	all := make(map[string]*series)
	low, high := 0.8, 1.25
	for _, c := range r.Compare() {
		if !slices.Contains(measures, c.Measure.Name) {
			continue
		}
		if !slices.Contains(rows, c.Case) {
			rows = append(rows, c.Case)
		}
		s := all[c.Against]
		if s == nil {
			s = new(series)
			all[c.Against] = s
		}
		mid, least, most := times(c)
		low, high = min(low, least), max(high, most)
		s.XYs = append(s.XYs, plotter.XY{X: mid, Y: -float64(slices.Index(rows, c.Case))})
		s.XErrors = append(s.XErrors, struct{ Low, High float64 }{least - mid, most - mid})
	}
	if len(rows) == 0 {
		return errors.New("the run has nothing to compare")
	}
	p := newPlot(title, rows, low, high)
	drawn := slices.DeleteFunc(slices.Clone(r.Order), func(name string) bool { return all[name] == nil })
	for i, name := range drawn { // plotutil has seven colours
		if err := all[name].addTo(p, name, i, len(drawn)); err != nil {
			return err
		}
	}
	height := vg.Length(len(rows))*1.1*vg.Centimeter + 4*vg.Centimeter
	for _, format := range []string{".svg", ".png"} {
		if err := p.Save(24*vg.Centimeter, height, path+format); err != nil {
			return err
		}
	}
	return nil
}

// times returns how many times better Fairlead is: median, minimum and maximum.
func times(c report.Comparison) (mid, least, most float64) {
	if c.Measure.Lower {
		return 1 / c.Ratio, 1 / c.High, 1 / c.Low
	}
	return c.Ratio, c.Low, c.High
}

// newPlot returns a plot with a row for each case and a line where both are equal.
func newPlot(title string, rows []string, low, high float64) *plot.Plot {
	p := plot.New()
	p.Title.Text = title
	p.X.Scale, p.X.Min, p.X.Max = plot.LogScale{}, low, high
	p.X.Label.Text = "← worse    equal    better →"
	var ticks plot.ConstantTicks
	for _, v := range []float64{0.1, 0.2, 0.33, 0.5, 0.75, 1, 1.25, 1.5, 2, 3, 5, 8, 12, 20, 50} {
		if v >= low && v <= high {
			ticks = append(ticks, plot.Tick{Value: v, Label: fmt.Sprint(v)})
		}
	}
	p.X.Tick.Marker = ticks
	p.Y.Min, p.Y.Max = 0.5-float64(len(rows)), 3 // leaves room for the legend
	p.Y.Label.Text = "case"                      // makes room for the names, which the plot cuts off otherwise
	var names plot.ConstantTicks
	for i, row := range rows {
		names = append(names, plot.Tick{Value: -float64(i), Label: row})
	}
	p.Y.Tick.Marker = names
	p.Legend.Top = true
	grid := plotter.NewGrid()
	grid.Horizontal.Width = 0
	equal := &plotter.Line{XYs: plotter.XYs{{X: 1, Y: p.Y.Min}, {X: 1, Y: p.Y.Max}}, LineStyle: plotter.DefaultLineStyle}
	p.Add(grid, equal)
	return p
}

// addTo draws the points of the i-th of n contestants, slightly above or below those of the
// others.
func (s *series) addTo(p *plot.Plot, name string, i, n int) error {
	for j := range s.XYs {
		s.XYs[j].Y += 0.6 * (0.5 - (float64(i)+0.5)/float64(n))
	}
	points, err := plotter.NewScatter(s.XYs)
	if err != nil {
		return err
	}
	bars, err := plotter.NewXErrorBars(s)
	if err != nil {
		return err
	}
	points.GlyphStyle = draw.GlyphStyle{Color: plotutil.Color(i), Radius: vg.Points(3), Shape: draw.CircleGlyph{}}
	bars.Color = plotutil.Color(i)
	p.Add(bars, points)
	p.Legend.Add("vs "+name, points)
	return nil
}
