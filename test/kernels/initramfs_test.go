// SPDX-License-Identifier: Apache-2.0

package kernels

import (
	"bytes"
	"debug/elf"
	"fmt"
	"io/fs"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// cpio is an archive in the format that kernels unpack as their first root
// directory (Documentation/driver-api/early-userspace/buffer-format.rst).
type cpio struct {
	buf   bytes.Buffer
	inode int
}

// Kinds of files, with their permissions, as in a stat's st_mode.
const (
	cpioDir  = 0o040755
	cpioFile = 0o100755
	cpioLink = 0o120777
)

func (c *cpio) dir(name string)                  { c.add(name, cpioDir, nil) }
func (c *cpio) file(name string, content []byte) { c.add(name, cpioFile, content) }
func (c *cpio) link(name, target string)         { c.add(name, cpioLink, []byte(target)) }

func (c *cpio) add(name string, mode int, content []byte) {
	c.inode++
	const links, magic = 1, "070701"
	c.buf.WriteString(magic)
	for _, field := range []int{
		c.inode, mode, 0 /* uid */, 0 /* gid */, links, 0, /* mtime */
		len(content), 0, 0, 0, 0 /* devices */, len(name) + 1, 0, /* checksum */
	} {
		fmt.Fprintf(&c.buf, "%08x", field)
	}
	c.buf.WriteString(name)
	c.buf.WriteByte(0)
	c.pad()
	c.buf.Write(content)
	c.pad()
}

// pad aligns what follows to four bytes.
func (c *cpio) pad() {
	for c.buf.Len()%4 != 0 {
		c.buf.WriteByte(0)
	}
}

// archive is the archive, which cannot be added to afterwards.
func (c *cpio) archive() []byte {
	c.add("TRAILER!!!", 0, nil)
	return c.buf.Bytes()
}

// module is a kernel module ready to be loaded.
type module struct {
	name    string
	content []byte
}

// loadOrder returns the modules of an unpacked package and all they depend on,
// each after those it needs. What the package does not have is taken to be
// built into the kernel; loading fails if it is not.
func loadOrder(t *testing.T, busybox, image string, names []string) []module {
	t.Helper()
	files := moduleFiles(t, image)
	var order []module
	seen := make(map[string]bool)
	var visit func(string)
	visit = func(name string) {
		path, ok := files[name]
		if !ok || seen[name] {
			return
		}
		seen[name] = true
		content := mustRead(t, path)
		if strings.HasSuffix(path, ".xz") {
			content = unxz(t, busybox, path)
		}
		for _, needed := range dependencies(t, path, content) {
			visit(needed)
		}
		order = append(order, module{name: name, content: content})
	}
	for _, name := range names {
		visit(name)
	}
	return order
}

// moduleFiles lists the modules of an unpacked package by name.
func moduleFiles(t *testing.T, image string) map[string]string {
	t.Helper()
	files := make(map[string]string)
	err := filepath.WalkDir(image, func(path string, entry fs.DirEntry, err error) error {
		if name, _, ok := strings.Cut(entry.Name(), ".ko"); ok && entry.Type().IsRegular() {
			files[strings.ReplaceAll(name, "-", "_")] = path
		}
		return err
	})
	must(t, err)
	if len(files) == 0 {
		t.Fatal("the kernel's package has no modules")
	}
	return files
}

// dependencies reads the names a module lists in itself. The package has no
// modules.dep: depmod makes that when it is installed.
func dependencies(t *testing.T, path string, content []byte) []string {
	t.Helper()
	file, err := elf.NewFile(bytes.NewReader(content))
	if err != nil {
		t.Fatalf("read module %s: %v", path, err)
	}
	section := file.Section(".modinfo")
	if section == nil {
		t.Fatalf("module %s has no .modinfo", path)
	}
	info, err := section.Data()
	if err != nil {
		t.Fatalf("read module %s: %v", path, err)
	}
	for field := range strings.SplitSeq(string(info), "\x00") {
		if list, ok := strings.CutPrefix(field, "depends="); ok && list != "" {
			return strings.Split(strings.ReplaceAll(list, "-", "_"), ",")
		}
	}
	return nil
}

func unxz(t *testing.T, busybox, path string) []byte {
	t.Helper()
	var stderr bytes.Buffer
	cmd := exec.Command(busybox, "xzcat", path)
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("decompress %s: %v\n%s", path, err, stderr.Bytes())
	}
	return out
}
