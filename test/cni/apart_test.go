// SPDX-License-Identifier: Apache-2.0

package cni

import (
	"context"
	"fmt"
	"path/filepath"
	"strings"
	"time"

	"github.com/fairlead-net/fairlead/bench/world"
)

// apart is a place for a real runtime on the lab's host.
type apart struct {
	*runtime
	pid string // by which it is entered
}

// apart makes the place, with more mounts.
func (r *runtime) apart(more string) *apart {
	r.Helper()
	return r.at(r.Apart(more))
}

// at is the place that is entered by a process ID.
func (r *runtime) at(pid string) *apart {
	r.Helper()
	r.Must(r.Host, "ln", "-s", filepath.Dir(r.Socket()), "/run/fairlead") // where the plugin looks
	return &apart{r, pid}
}

// enter is the command that runs a program in the namespaces.
func (a *apart) enter(program string, args []string) []string {
	return append([]string{"nsenter", "--target", a.pid, "--pid", "--mount", "--", program}, args...)
}

func (a *apart) try(program string, args ...string) world.Result {
	a.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	all := a.enter(program, args)
	r, err := a.Host.Run(ctx, all[0], all[1:]...)
	if err != nil {
		a.Fatal(err)
	}
	return r
}

func (a *apart) do(program string, args ...string) string {
	a.Helper()
	r := a.try(program, args...)
	if r.Code != 0 {
		a.Fatalf("%s %s: status %d\n%s", program, strings.Join(args, " "), r.Code, r.Output())
	}
	return strings.TrimSpace(r.Stdout)
}

// rootfs is an archive of a file system with nothing but busybox and a page.
func (r *runtime) rootfs() string {
	r.Helper()
	root := r.Dir("rootfs")
	for _, dir := range []string{"bin", "www", "etc", "proc", "sys", "dev"} {
		r.Dir("rootfs/" + dir)
	}
	r.Write("rootfs/www/index.html", "served\n")
	r.Must(r.Host, "cp", r.Must(r.Host, "sh", "-c", "printf %s $(command -v busybox)"), filepath.Join(root, "bin", "busybox"))
	tar := filepath.Join(r.Dir("."), "rootfs.tar")
	r.Must(r.Host, "tar", "-C", root, "-cf", tar, ".")
	return tar
}

// served waits until a page is served to a host.
func (r *runtime) served(h *world.Host, addr string, port int, want string) {
	r.Helper()
	r.Eventually(5*time.Second, func() error {
		url := fmt.Sprintf("http://%s:%d/", addr, port)
		got := r.Run(h, "curl", "-sS", "--noproxy", "*", "--max-time", "2", url)
		if got.Stdout != want+"\n" {
			return fmt.Errorf("%s: curl %s: %s, want %s", h.Name, url, got.Output(), want)
		}
		return nil
	})
}
