// SPDX-License-Identifier: Apache-2.0

package schema

import (
	"bytes"
	"os"
	"strconv"
	"strings"
)

// mark is how OfBinary finds the version that a build writes.
const mark = "fairlead-stored-schema:4;"

// OfBinary returns the version of the state that the fairlead binary at a path reads and writes.
// Builds of version 1 do not have the mark.
func OfBinary(path string) (int, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return 0, err
	}
	prefix := []byte(mark[:strings.IndexByte(mark, ':')+1])
	for {
		_, after, found := bytes.Cut(b, prefix)
		if !found {
			return 1, nil
		}
		digits, _, ended := bytes.Cut(after[:min(len(after), 12)], []byte(";"))
		if version, err := strconv.Atoi(string(digits)); ended && err == nil && version > 1 {
			return version, nil
		}
		b = after
	}
}
