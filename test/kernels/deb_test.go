// SPDX-License-Identifier: Apache-2.0

package kernels

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
	"testing"
	"time"
)

// deb returns the path of the kernel's package in the cache, where it is put
// first if it is not there yet.
func (k kernel) deb(t *testing.T) string {
	t.Helper()
	cache := filepath.Join(cmp.Or(os.Getenv("XDG_CACHE_HOME"), "/var/cache"), "fairlead", "kernels")
	pattern := filepath.Join(cache, "linux-image-"+k.series+".*.deb")
	found, err := filepath.Glob(pattern)
	must(t, err)
	if len(found) > 0 {
		return found[len(found)-1]
	}
	must(t, os.MkdirAll(cache, 0o755))
	dir, err := os.MkdirTemp(cache, "download-")
	must(t, err)
	defer os.RemoveAll(dir)
	if err := k.download(dir); err != nil {
		t.Fatalf("download the kernel of Debian %s: %v", k.suite, err)
	}
	found, err = filepath.Glob(filepath.Join(dir, "linux-image-"+k.series+".*.deb"))
	must(t, err)
	if len(found) != 1 {
		t.Fatalf("Debian %s has %d packages linux-image-%s.*, want one", k.suite, len(found), k.series)
	}
	path := filepath.Join(cache, filepath.Base(found[0]))
	must(t, os.Rename(found[0], path)) // whole or not at all
	return path
}

// download fetches the package into dir, with package lists of its own: those
// of the machine are for another suite.
func (k kernel) download(dir string) error {
	archive, err := debianArchive()
	if err != nil {
		return err
	}
	for _, sub := range []string{"lists/partial", "cache/archives/partial"} {
		if err := os.MkdirAll(filepath.Join(dir, sub), 0o755); err != nil {
			return err
		}
	}
	source := fmt.Sprintf("deb %s%s %s main\n", signedBy(), archive, k.suite)
	if err := os.WriteFile(filepath.Join(dir, "sources.list"), []byte(source), 0o644); err != nil {
		return err
	}
	if _, err := apt(dir, "apt-get", "-qq", "update"); err != nil {
		return err
	}
	const meta = "linux-image-cloud-amd64"
	out, err := apt(dir, "apt-cache", "depends", "--important", meta)
	if err != nil {
		return err
	}
	for line := range strings.Lines(out) {
		if name, ok := strings.CutPrefix(strings.TrimSpace(line), "Depends: "); ok {
			_, err := apt(dir, "apt-get", "-qq", "download", name)
			return err
		}
	}
	return fmt.Errorf("package %s depends on no kernel: %q", meta, out)
}

// apt runs one of apt's commands on the lists of dir only. It changes nothing
// that belongs to the machine.
func apt(dir, command string, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	options := []string{
		"-o", "Dir::Etc::SourceList=" + filepath.Join(dir, "sources.list"),
		"-o", "Dir::Etc::SourceParts=-",
		"-o", "Dir::State::Lists=" + filepath.Join(dir, "lists"),
		"-o", "Dir::Cache=" + filepath.Join(dir, "cache"),
		"-o", "APT::Sandbox::User=root", // the other one may not write here
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

// debianArchive is where this machine gets Debian from: all suites are there.
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

// signedBy is an option for sources.list: the keys of all of Debian's suites, where they are installed.
func signedBy() string {
	const keys = "/usr/share/keyrings/debian-archive-keyring.gpg"
	if _, err := os.Stat(keys); err != nil {
		return ""
	}
	return "[signed-by=" + keys + "] "
}

// unpack puts the package's files into a directory of the test's.
func unpack(t *testing.T, deb string) string {
	t.Helper()
	dir := t.TempDir()
	if out, err := exec.Command("dpkg-deb", "-x", deb, dir).CombinedOutput(); err != nil {
		t.Fatalf("unpack %s (remove it to have it fetched anew): %v\n%s", deb, err, out)
	}
	return dir
}

// vmlinuz is the kernel in an unpacked package.
func vmlinuz(t *testing.T, image string) string {
	t.Helper()
	found, err := filepath.Glob(filepath.Join(image, "boot", "vmlinuz-*"))
	must(t, err)
	if len(found) != 1 {
		t.Fatalf("the package has %d kernels, want one", len(found))
	}
	return found[0]
}
