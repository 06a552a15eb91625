// SPDX-License-Identifier: Apache-2.0

// Package logonce tells errors that are to be logged from those that were logged the last time.
package logonce

// Error is the last result of something that is tried again and again.
type Error struct{ text string }

// IsNew records a result, and reports whether it is an error, and another one than the last.
func (e *Error) IsNew(err error) bool {
	last := e.text
	if e.text = ""; err != nil {
		e.text = err.Error()
	}
	return err != nil && e.text != last
}
