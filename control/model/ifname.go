// SPDX-License-Identifier: Apache-2.0

package model

import "regexp"

var ifNameRule = regexp.MustCompile(`^[a-zA-Z0-9_.-]{1,15}$`)

// IsIfName reports whether an interface may have a name, unless it is reserved. The rule is stricter than the kernel's,
// which allows everything but slash, colon and white space, because people read and type these names.
func IsIfName(name string) bool { return ifNameRule.MatchString(name) }

// ReservedIfNames have another meaning in paths and in /proc/sys/net.
var ReservedIfNames = []string{".", "..", "lo", "all", "default"}

// MaxNameLen is the maximum length of a name in bytes.
const MaxNameLen = 255

// sandboxName is Docker's rule for names of containers. Names of networks are not restricted by it.
var sandboxName = regexp.MustCompile(`^[a-zA-Z0-9][a-zA-Z0-9_.-]+$`)

// ValidName reports whether a sandbox may have a name.
func ValidName(name string) bool { return sandboxName.MatchString(name) && len(name) <= MaxNameLen }
