// SPDX-License-Identifier: Apache-2.0

package arch_test

import (
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// cSource is a file of the datapath, without comments and strings.
type cSource struct {
	name     string // relative to bpf/
	code     string
	includes []string // as written, in quotes or brackets
}

var (
	cComment = regexp.MustCompile(`(?s)/\*.*?\*/|//[^\n]*`)
	cInclude = regexp.MustCompile(`(?m)^#include ([<"][^>"]+[>"])$`)
	cString  = regexp.MustCompile(`"(\\.|[^"\n])*"`)
	cWord    = regexp.MustCompile(`(->|\.)?\b\w+\b\(?`)
	cTag     = regexp.MustCompile(`\b(struct|union|enum) \w+`)
)

// cDefinitions find what a file defines: macros and types, maps and variables, enumerators, and
// functions, whose names end with a parenthesis here.
var cDefinitions = []*regexp.Regexp{
	regexp.MustCompile(`(?m)^#\s*define (\w+)`),
	regexp.MustCompile(`(?m)^((?:struct|union|enum) \w+) \{`),
	regexp.MustCompile(`(?m)^\} (\w+) SEC`),
	regexp.MustCompile(`(?m)^volatile const \w+ (\w+)`),
	regexp.MustCompile(`(?m)^\t([A-Z][A-Z0-9_]+)(?: = [^;,\n]*)?[ \t]*(?:,|$)`),
	regexp.MustCompile(`(?m)^[a-z_][\w \t*]*?\b(\w+\()`),
}

// cProvided says which system header provides what.
var cProvided = []struct {
	words  *regexp.Regexp
	header string
}{
	{regexp.MustCompile(`\b__([us](8|16|32|64)|be(16|32))\b`), "<linux/types.h>"},
	{regexp.MustCompile(`\bbool\b`), "<stdbool.h>"},
	{regexp.MustCompile(`\b(offsetof|NULL)\b`), "<stddef.h>"},
	{regexp.MustCompile(`\bbpf_(hton|ntoh)[sl]\b`), "<bpf/bpf_endian.h>"},
	{regexp.MustCompile(`\bBPF_CORE_READ_BITFIELD\b`), "<bpf/bpf_core_read.h>"},
	{regexp.MustCompile(`\b(SEC|__always_inline|__noinline|__uint|__type|__ksym|__weak|barrier_var)\b`), "<bpf/bpf_helpers.h>"},
	{regexp.MustCompile(`\bstruct (__sk_buff|bpf_\w+)\b|\bBPF_\w+`), "<linux/bpf.h>"},
	{regexp.MustCompile(`\bETH_\w+|\bstruct ethhdr\b`), "<linux/if_ether.h>"},
	{regexp.MustCompile(`\bIPPROTO_(TCP|UDP|ICMP|SCTP)\b`), "<linux/in.h>"},
	{regexp.MustCompile(`\bIPPROTO_(ICMPV6|HOPOPTS|ROUTING|DSTOPTS|FRAGMENT)\b`), "<linux/in6.h>"},
	{regexp.MustCompile(`\bstruct iphdr\b`), "<linux/ip.h>"},
	{regexp.MustCompile(`\bstruct ipv6hdr\b`), "<linux/ipv6.h>"},
	{regexp.MustCompile(`\bstruct tcphdr\b`), "<linux/tcp.h>"},
	{regexp.MustCompile(`\bstruct udphdr\b`), "<linux/udp.h>"},
	{regexp.MustCompile(`\bTC_ACT_\w+`), "<linux/pkt_cls.h>"},
}

func cSources(t *testing.T) []cSource {
	t.Helper()
	dir := filepath.Join(root(t), "bpf")
	var all []cSource
	for _, pattern := range []string{"lib/*.h", "*.bpf.c"} {
		paths, err := filepath.Glob(filepath.Join(dir, pattern))
		if err != nil || len(paths) == 0 {
			t.Fatalf("no file is named bpf/%s (%v)", pattern, err)
		}
		for _, path := range paths {
			text, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			name, err := filepath.Rel(dir, path)
			if err != nil {
				t.Fatal(err)
			}
			code := cComment.ReplaceAllString(string(text), "")
			s := cSource{name: name}
			for _, m := range cInclude.FindAllStringSubmatch(code, -1) {
				s.includes = append(s.includes, m[1])
			}
			s.code = cString.ReplaceAllString(cInclude.ReplaceAllString(code, ""), `""`)
			all = append(all, s)
		}
	}
	return all
}

func (s cSource) defines() map[string]bool {
	names := make(map[string]bool)
	for _, kind := range cDefinitions {
		for _, m := range kind.FindAllStringSubmatch(s.code, -1) {
			names[m[1]] = true
		}
	}
	for _, word := range []string{"SEC(", "_Static_assert(", "__attribute__("} {
		delete(names, word)
	}
	return names
}

// words returns the names that occur, as in defines, without members of structs.
func (s cSource) words() map[string]bool {
	words := make(map[string]bool)
	for _, w := range slices.Concat(cWord.FindAllString(s.code, -1), cTag.FindAllString(s.code, -1)) {
		if w[0] != '.' && w[0] != '-' {
			words[w] = true
			words[strings.TrimSuffix(w, "(")] = true
		}
	}
	return words
}

// needs returns the includes that the file's own code requires.
func (s cSource) needs(owner map[string]string) []string {
	need := make(map[string]bool)
	for word := range s.words() {
		if file := owner[word]; file != "" && file != s.name {
			need[`"`+file+`"`] = true
		}
	}
	for _, p := range cProvided {
		if p.words.MatchString(s.code) {
			need[p.header] = true
		}
	}
	if need["<bpf/bpf_helpers.h>"] || need["<bpf/bpf_endian.h>"] {
		need["<linux/bpf.h>"] = true // they use its types
	}
	if need["<linux/bpf.h>"] {
		delete(need, "<linux/types.h>")
	}
	return slices.Sorted(maps.Keys(need))
}

// Every file of the datapath includes the headers whose names it uses, and no others.
func TestIncludes(t *testing.T) {
	sources := cSources(t)
	owner := make(map[string]string)
	for _, s := range sources {
		if !strings.HasSuffix(s.name, ".h") {
			continue
		}
		for name := range s.defines() {
			if other := owner[name]; other != "" {
				t.Errorf("%s is defined by both %s and %s", name, other, s.name)
			}
			owner[name] = s.name
		}
	}
	for _, s := range sources {
		var have []string
		for _, h := range s.includes {
			if h[0] == '"' {
				h = `"lib/` + strings.TrimPrefix(h[1:], "lib/")
			}
			have = append(have, h)
		}
		need := s.needs(owner)
		for _, h := range need {
			if !slices.Contains(have, h) {
				t.Errorf("bpf/%s uses names of %s: include it", s.name, h)
			}
		}
		for _, h := range have {
			if !slices.Contains(need, h) {
				t.Errorf("bpf/%s uses nothing of %s: do not include it", s.name, h)
			}
		}
	}
}

// Every header of the datapath compiles alone.
func TestHeadersCompile(t *testing.T) {
	makefile, err := os.ReadFile(filepath.Join(root(t), "Makefile"))
	if err != nil {
		t.Fatal(err)
	}
	version := regexp.MustCompile(`(?m)^LLVM +:= (\d+)$`).FindSubmatch(makefile)
	if version == nil {
		t.Fatal("the Makefile sets no version of LLVM")
	}
	clang := "clang-" + string(version[1])
	if _, err := exec.LookPath(clang); err != nil {
		t.Skipf("%v (make generate installs it)", err)
	}
	for _, s := range cSources(t) {
		if !strings.HasSuffix(s.name, ".h") {
			continue
		}
		t.Run(s.name, func(t *testing.T) {
			t.Parallel()
			cmd := exec.Command(clang, "-target", "bpfel", "-fsyntax-only", "-O2", "-Wall", "-Wextra", "-Werror", "-Wshadow",
				"-Wno-unused-function", "-mcpu=v3", "-I/usr/include/x86_64-linux-gnu", "-include", s.name, "-x", "c", os.DevNull)
			cmd.Dir = filepath.Join(root(t), "bpf")
			if out, err := cmd.CombinedOutput(); err != nil {
				t.Errorf("%v\n%s", err, out)
			}
		})
	}
}
