package report
import "io"
func (r *Run) WriteTable(w io.Writer) error { return r.WriteJSON(w) }
