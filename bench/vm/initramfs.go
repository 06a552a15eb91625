// SPDX-License-Identifier: Apache-2.0

package vm

import (
	"bytes"
	"context"
	"debug/elf"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"strings"

	"github.com/fairlead-net/fairlead/bench/world"
)

// Archive is an archive in the format that kernels unpack as their first root
// directory (Documentation/driver-api/early-userspace/buffer-format.rst).
type Archive struct {
	buf   bytes.Buffer
	inode int
	has   map[string]bool // files and directories, and modules by "module NAME"
}

// File types with their permissions, as in st_mode of stat(2).
const (
	cpioDir  = 0o040755
	cpioFile = 0o100755
	cpioLink = 0o120777
)

// Dir adds a directory and its parents, unless they exist.
func (a *Archive) Dir(name string) {
	if name == "." || !a.first(name) {
		return
	}
	a.Dir(path.Dir(name))
	a.add(name, cpioDir, nil)
}

// File adds a file that everyone may execute.
func (a *Archive) File(name string, content []byte) {
	a.Dir(path.Dir(name))
	a.add(name, cpioFile, content)
}

// Link adds a symbolic link.
func (a *Archive) Link(name, target string) {
	a.Dir(path.Dir(name))
	a.add(name, cpioLink, []byte(target))
}

// first reports whether this is the first call for a name.
func (a *Archive) first(what string) bool {
	if a.has[what] {
		return false
	}
	if a.has == nil {
		a.has = make(map[string]bool)
	}
	a.has[what] = true
	return true
}

func (a *Archive) add(name string, mode int, content []byte) {
	a.inode++
	const links, magic = 1, "070701"
	a.buf.WriteString(magic)
	for _, field := range []int{
		a.inode, mode, 0 /* uid */, 0 /* gid */, links, 0, /* mtime */
		len(content), 0, 0, 0, 0 /* devices */, len(name) + 1, 0, /* checksum */
	} {
		fmt.Fprintf(&a.buf, "%08x", field)
	}
	a.buf.WriteString(name)
	a.buf.WriteByte(0)
	a.pad()
	a.buf.Write(content)
	a.pad()
}

// pad aligns what follows to four bytes.
func (a *Archive) pad() {
	for a.buf.Len()%4 != 0 {
		a.buf.WriteByte(0)
	}
}

// Bytes returns the archive, to which nothing can be added afterwards.
func (a *Archive) Bytes() []byte {
	a.add("TRAILER!!!", 0, nil)
	return a.buf.Bytes()
}

// Modules puts kernel modules and all their dependencies into a directory of the archive,
// named so that they sort in load order, except for modules that an earlier call has put into
// another directory. A module that the package does not have is assumed to be built into the
// kernel; if it is not, loading what depends on it fails.
func (a *Archive) Modules(image Image, dir string, names ...string) error {
	files, err := moduleFiles(image.dir)
	if err != nil {
		return err
	}
	dir = strings.TrimPrefix(dir, "/")
	n := 0
	var visit func(string) error
	visit = func(name string) error {
		file, ok := files[name]
		if !ok || !a.first("module "+name) {
			return nil
		}
		content, err := readModule(file)
		if err != nil {
			return err
		}
		needed, err := dependencies(content)
		if err != nil {
			return fmt.Errorf("read module %s: %w", file, err)
		}
		for _, other := range needed {
			if err := visit(other); err != nil {
				return err
			}
		}
		a.File(fmt.Sprintf("%s/%02d-%s.ko", dir, n, name), content)
		n++
		return nil
	}
	a.Dir(dir)
	for _, name := range names {
		if err := visit(name); err != nil {
			return err
		}
	}
	return nil
}

// moduleFiles lists the modules of an unpacked package by name.
func moduleFiles(dir string) (map[string]string, error) {
	files := make(map[string]string)
	err := filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if name, _, ok := strings.Cut(entry.Name(), ".ko"); ok && entry.Type().IsRegular() {
			files[strings.ReplaceAll(name, "-", "_")] = path
		}
		return nil
	})
	if err == nil && len(files) == 0 {
		err = errors.New("the kernel's package has no modules")
	}
	return files, err
}

// dependencies reads the names of the modules that a module itself lists as its dependencies.
// The package has no modules.dep: depmod makes that on installation.
func dependencies(content []byte) ([]string, error) {
	file, err := elf.NewFile(bytes.NewReader(content))
	if err != nil {
		return nil, err
	}
	section := file.Section(".modinfo")
	if section == nil {
		return nil, errors.New("it has no .modinfo")
	}
	info, err := section.Data()
	if err != nil {
		return nil, err
	}
	for field := range strings.SplitSeq(string(info), "\x00") {
		if list, ok := strings.CutPrefix(field, "depends="); ok && list != "" {
			return strings.Split(strings.ReplaceAll(list, "-", "_"), ","), nil
		}
	}
	return nil, nil
}

// readModule reads and decompresses a module.
func readModule(path string) ([]byte, error) {
	if !strings.HasSuffix(path, ".xz") {
		return os.ReadFile(path)
	}
	var stderr bytes.Buffer
	cmd := exec.Command(busybox, "xzcat", path)
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("decompress %s: %w: %s", path, err, stderr.Bytes())
	}
	return out, nil
}

// Busybox adds busybox, and links to it for the given programs.
func (a *Archive) Busybox(names ...string) error {
	if _, err := a.program(busybox); err != nil {
		return err
	}
	for _, name := range names {
		a.Link("bin/"+name, busybox)
	}
	return nil
}

// Program adds a program of this machine, with the libraries it is linked to.
func (a *Archive) Program(name string) error {
	file, err := a.program(name)
	if err != nil {
		return err
	}
	out, err := exec.Command("ldd", file).Output()
	if err != nil {
		return fmt.Errorf("libraries of %s: %w", file, err)
	}
	for word := range strings.FieldsSeq(string(out)) {
		if filepath.IsAbs(word) {
			if err := a.Copy(word); err != nil {
				return err
			}
		}
	}
	return nil
}

// program adds a program to the guest's /bin, and returns its path here.
func (a *Archive) program(name string) (string, error) {
	cmd := world.Command(context.Background(), name)
	if cmd.Err != nil {
		return "", cmd.Err
	}
	content, err := os.ReadFile(cmd.Path)
	if err != nil {
		return "", err
	}
	a.File("bin/"+name, content)
	return cmd.Path, nil
}

// Copy adds a file of this machine at the same path, once.
func (a *Archive) Copy(file string) error {
	if !a.first(file) {
		return nil
	}
	content, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	a.File(strings.TrimPrefix(file, "/"), content)
	return nil
}
