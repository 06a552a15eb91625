// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"text/template"
	"time"

	"github.com/spf13/cobra"

	"github.com/fairlead-net/fairlead/control/api"
	"github.com/fairlead-net/fairlead/control/model"
)

// listOptions are the flags of all commands that list.
type listOptions struct {
	quiet   bool
	noTrunc bool
	filters []string
	format  string
}

func (o *listOptions) register(cmd *cobra.Command) {
	f := cmd.Flags()
	f.BoolVarP(&o.quiet, "quiet", "q", false, "print IDs only")
	f.BoolVar(&o.noTrunc, "no-trunc", false, "do not truncate output")
	f.StringArrayVarP(&o.filters, "filter", "f", nil, "show those that match KEY=VALUE")
	f.StringVar(&o.format, "format", "table", `"table", "json" (one object per line), "table TEMPLATE" or a Go TEMPLATE`)
}

func (o *listOptions) parseFilters() (api.Filters, error) { return parseFilters(o.filters) }

func parseFilters(list []string) (api.Filters, error) {
	f := api.Filters{}
	for _, s := range list {
		key, value, ok := strings.Cut(s, "=")
		if strings.HasSuffix(key, "!") && key != "label!" || !ok || key == "" {
			return nil, usagef("filter %q: want KEY=VALUE", s)
		}
		f[key] = append(f[key], value)
	}
	return f, nil
}

// shortID shortens an ID unless --no-trunc is given.
func (o *listOptions) shortID(id string) string {
	if o.noTrunc {
		return id
	}
	return model.ShortID(id)
}

// headers maps fields to column headings. Executing a template with it yields the
// heading line.
type headers map[string]string

// Label returns the heading of a column {{.Label "key"}}.
func (headers) Label(key string) string { return strings.ToUpper(key) }

// table describes how rows are shown.
type table struct {
	headers headers
	layout  string // template of the default table
	quiet   string // template with -q
}

// printList prints rows according to --format and -q.
func printList[T any](w io.Writer, o *listOptions, t table, rows []T) error {
	format := o.format
	if o.quiet && (format == "table" || format == "") {
		format = t.quiet
	}
	if format == "json" {
		enc := json.NewEncoder(w)
		enc.SetEscapeHTML(false)
		for _, r := range rows {
			if err := enc.Encode(r); err != nil {
				return fmt.Errorf("write list: %w", err)
			}
		}
		return nil
	}
	layout, isTable := strings.CutPrefix(format, "table")
	if format == "" || isTable && strings.TrimSpace(layout) == "" {
		layout, isTable = t.layout, true
	}
	tmpl, err := parseTemplate(strings.TrimPrefix(layout, " "))
	if err != nil {
		return err
	}
	out := w
	var tab *tabwriter.Writer
	if isTable {
		tab = tabwriter.NewWriter(w, 0, 0, 3, ' ', 0)
		out = tab
		if err := executeLine(out, tmpl, t.headers); err != nil {
			return err
		}
	}
	for _, r := range rows {
		if err := executeLine(out, tmpl, r); err != nil {
			return err
		}
	}
	if tab != nil {
		return tab.Flush()
	}
	return nil
}

func parseTemplate(text string) (*template.Template, error) {
	// A shell passes \t and \n literally.
	text = strings.NewReplacer(`\t`, "\t", `\n`, "\n").Replace(text)
	t, err := template.New("").Option("missingkey=error").Funcs(template.FuncMap{
		"json": func(v any) (string, error) {
			b, err := json.Marshal(v)
			return string(b), err
		},
		"join":  func(list any, sep string) string { return join(list, sep) },
		"split": strings.Split,
		"lower": strings.ToLower,
		"upper": strings.ToUpper,
	}).Parse(text)
	if err != nil {
		return nil, usagef("format %q: %s", text, strings.TrimPrefix(err.Error(), "template: "))
	}
	return t, nil
}

// join accepts lists of strings and lists decoded from JSON.
func join(list any, sep string) string {
	var parts []string
	switch l := list.(type) {
	case []string:
		parts = l
	case []any:
		for _, v := range l {
			parts = append(parts, fmt.Sprint(v))
		}
	}
	return strings.Join(parts, sep)
}

func executeLine(w io.Writer, t *template.Template, v any) error {
	if err := t.Execute(w, v); err != nil {
		text, _, _ := strings.Cut(strings.TrimPrefix(err.Error(), "template: "), " in type ") // a word of Go
		return fmt.Errorf("format: %s", text)
	}
	_, err := io.WriteString(w, "\n")
	return err
}

// printInspect renders objects as a JSON array, or each through a template
// over its JSON fields.
func printInspect[T any](w io.Writer, format string, objects []T) error {
	if format == "" || format == "json" {
		enc := json.NewEncoder(w)
		enc.SetEscapeHTML(false)
		if format == "" {
			enc.SetIndent("", "    ")
		}
		return enc.Encode(objects)
	}
	t, err := parseTemplate(format)
	if err != nil {
		return err
	}
	for _, o := range objects {
		b, err := json.Marshal(o)
		if err != nil {
			return fmt.Errorf("encode object: %w", err)
		}
		dec := json.NewDecoder(strings.NewReader(string(b)))
		dec.UseNumber() // print numbers as received, not as floats
		var fields any
		if err := dec.Decode(&fields); err != nil {
			return fmt.Errorf("decode object: %w", err)
		}
		if err := executeLine(w, t, fields); err != nil {
			return err
		}
	}
	return nil
}

// formatLabels formats labels as "a=1,b=2".
func formatLabels(labels map[string]string) string {
	var out []string
	for _, k := range sortedKeys(labels) {
		out = append(out, k+"="+labels[k])
	}
	return strings.Join(out, ",")
}

// age formats how long ago t was, in the largest suitable unit.
func age(now, then time.Time) string {
	d := max(now.Sub(then), 0)
	n, unit := 0, ""
	switch {
	case d < time.Minute:
		n, unit = int(d/time.Second), "second"
	case d < time.Hour:
		n, unit = int(d/time.Minute), "minute"
	case d < 48*time.Hour:
		n, unit = int(d/time.Hour), "hour"
	default:
		n, unit = int(d/(24*time.Hour)), "day"
	}
	if n != 1 {
		unit += "s"
	}
	return fmt.Sprintf("%d %s ago", n, unit)
}

func truncate(s string, n int) string {
	r := []rune(s)
	if len(r) <= n {
		return s
	}
	return string(r[:n-1]) + "…"
}
