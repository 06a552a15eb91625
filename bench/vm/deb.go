// SPDX-License-Identifier: Apache-2.0

package vm

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// Kernel is the kernel of a Debian suite.
type Kernel struct {
	Series string // "6.1"
	Suite  string // "bookworm"
}

// Fetch returns the path of the kernel's package in the cache. It downloads the package first
// if necessary.
func (k Kernel) Fetch(ctx context.Context) (_ string, retErr error) {
	cache := filepath.Join(cmp.Or(os.Getenv("XDG_CACHE_HOME"), "/var/cache"), "fairlead", "kernels")
	found, err := k.in(cache)
	if err != nil {
		return "", err
	}
	if len(found) > 0 {
		return found[len(found)-1], nil
	}
	if err := os.MkdirAll(cache, 0o755); err != nil {
		return "", err
	}
	dir, err := os.MkdirTemp(cache, "download-")
	if err != nil {
		return "", err
	}
	defer func() { retErr = errors.Join(retErr, os.RemoveAll(dir)) }()
	if err := k.download(ctx, dir); err != nil {
		return "", fmt.Errorf("download the kernel of Debian %s: %w", k.Suite, err)
	}
	found, err = k.in(dir)
	if err != nil {
		return "", err
	}
	if len(found) != 1 {
		return "", fmt.Errorf("suite %s of Debian has %d packages linux-image-%s.*, want one", k.Suite, len(found), k.Series)
	}
	path := filepath.Join(cache, filepath.Base(found[0]))
	return path, os.Rename(found[0], path) // atomic
}

// in lists the kernel's packages in a directory.
func (k Kernel) in(dir string) ([]string, error) {
	return filepath.Glob(filepath.Join(dir, "linux-image-"+k.Series+".*.deb"))
}

// download fetches the package into dir, with package lists of its own: the machine's lists
// are for another suite.
func (k Kernel) download(ctx context.Context, dir string) error {
	archive, err := debianArchive()
	if err != nil {
		return err
	}
	for _, sub := range []string{"lists/partial", "cache/archives/partial"} {
		if err := os.MkdirAll(filepath.Join(dir, sub), 0o755); err != nil {
			return err
		}
	}
	source := fmt.Sprintf("deb %s%s %s main\n", signedBy(), archive, k.Suite)
	if err := os.WriteFile(filepath.Join(dir, "sources.list"), []byte(source), 0o644); err != nil {
		return err
	}
	if _, err := apt(ctx, dir, "apt-get", "-qq", "update"); err != nil {
		return err
	}
	const meta = "linux-image-cloud-amd64"
	out, err := apt(ctx, dir, "apt-cache", "depends", "--important", meta)
	if err != nil {
		return err
	}
	for line := range strings.Lines(out) {
		if name, ok := strings.CutPrefix(strings.TrimSpace(line), "Depends: "); ok {
			_, err := apt(ctx, dir, "apt-get", "-qq", "download", name)
			return err
		}
	}
	return fmt.Errorf("package %s depends on no kernel: %q", meta, out)
}

// apt runs one of apt's commands, using only the lists in dir. It does not change anything of
// the machine.
func apt(ctx context.Context, dir, command string, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Minute)
	defer cancel()
	options := []string{
		"-o", "Dir::Etc::SourceList=" + filepath.Join(dir, "sources.list"),
		"-o", "Dir::Etc::SourceParts=-",
		"-o", "Dir::State::Lists=" + filepath.Join(dir, "lists"),
		"-o", "Dir::Cache=" + filepath.Join(dir, "cache"),
		"-o", "APT::Sandbox::User=root", // the _apt user may not write here
		"-o", "APT::Architecture=amd64",
		"-o", "Acquire::Languages=none",
		"-o", "Acquire::Retries=3",
	}
	var stderr bytes.Buffer
	cmd := exec.CommandContext(ctx, command, append(options, args...)...)
	cmd.Dir = dir
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("%s %s: %w: %s", command, strings.Join(args, " "), err, bytes.TrimSpace(stderr.Bytes()))
	}
	return string(out), nil
}

// debianArchive returns the archive that this machine gets Debian from: it has all suites.
func debianArchive() (string, error) {
	const format = "$(ORIGIN) $(COMPONENT) $(SUITE) $(REPO_URI)"
	out, err := exec.Command("apt-get", "indextargets", "--format", format, "Created-By: Packages").Output()
	if err != nil {
		return "", fmt.Errorf("apt-get indextargets: %w", err)
	}
	for lines := bufio.NewScanner(bytes.NewReader(out)); lines.Scan(); {
		fields := strings.Fields(lines.Text())
		if len(fields) == 4 && fields[0] == "Debian" && fields[1] == "main" && !strings.Contains(fields[2], "-") {
			return fields[3], nil
		}
	}
	return "", errors.New("apt's sources of this machine name no Debian archive (put the kernel's package into the cache by hand)")
}

// signedBy returns an option for sources.list: the keys of all of Debian's suites, where they
// are installed.
func signedBy() string {
	const keys = "/usr/share/keyrings/debian-archive-keyring.gpg"
	if _, err := os.Stat(keys); err != nil {
		return ""
	}
	return "[signed-by=" + keys + "] "
}

// Release returns the release of the kernel in a package, as uname reports it.
func Release(deb string) string {
	release, _, _ := strings.Cut(strings.TrimPrefix(filepath.Base(deb), "linux-image-"), "_")
	return release
}

// Image is an unpacked kernel package.
type Image struct {
	Kernel string // its path
	dir    string
}

// Unpack extracts a package's files into dir.
func Unpack(ctx context.Context, deb, dir string) (Image, error) {
	if out, err := exec.CommandContext(ctx, "dpkg-deb", "-x", deb, dir).CombinedOutput(); err != nil {
		return Image{}, fmt.Errorf("unpack %s (remove it, and it is fetched again): %w\n%s", deb, err, out)
	}
	found, err := filepath.Glob(filepath.Join(dir, "boot", "vmlinuz-*"))
	if err != nil {
		return Image{}, err
	}
	if len(found) != 1 {
		return Image{}, fmt.Errorf("the package %s has %d kernels, want one", deb, len(found))
	}
	return Image{Kernel: found[0], dir: dir}, nil
}
