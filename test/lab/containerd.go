// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/fairlead-net/fairlead/bench/world"
)

// ContainerdSocket is where a Containerd listens, and ContainerdImage its only image, for
// pods and for their containers.
const (
	ContainerdSocket = "/run/containerd/containerd.sock"
	ContainerdImage  = "localhost/box:latest"
)

// Containerd is Debian's containerd, isolated on the host, which serves Kubernetes' runtime
// interface (CRI), and crictl, its client, which test/crictl.sh builds. Networks are
// configured in the lab's directory cni/net.d.
type Containerd struct {
	Pid    string         // by which its namespaces are entered
	Daemon *world.Process // the last one that was started
	Crictl []string       // the command line of crictl

	l *Lab
}

// NewContainerd starts containerd with these CNI plugins. Its image has one layer, a tarball,
// and a command that does nothing.
func (l *Lab) NewContainerd(layer string, command []string, plugins ...string) *Containerd {
	l.Helper()
	cache, err := os.UserCacheDir()
	l.must(err)
	// ctr does not have flags for these directories.
	c := &Containerd{l: l, Pid: l.Apart("mount --bind " + l.Dir("cni") + " /etc/cni && mount --bind " + l.Dir("opt") + " /opt")}
	c.Crictl = []string{
		filepath.Join(cache, "fairlead", "crictl", "crictl"), "--config", l.Write("crictl.yaml", ""), "--timeout", "20s",
		"--runtime-endpoint", "unix://" + ContainerdSocket, "--image-endpoint", "unix://" + ContainerdSocket,
	}
	l.Write("containerd.toml", fmt.Sprintf(`version = 2
root = %q
state = "/run/containerd"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = %q
  disable_cgroup = true
  disable_apparmor = true
  restrict_oom_score_adj = true
[plugins."io.containerd.grpc.v1.cri".containerd]
  snapshotter = "native"
`, l.Dir("containerd"), ContainerdImage))
	l.Dir("cni/net.d")
	for _, plugin := range plugins { // containerd searches only one directory
		l.Must(l.Host, "ln", "-s", plugin, l.Dir("opt/cni/bin"))
	}
	c.Start()
	l.Cleanup(func() { c.TryCRI("rmp", "--all", "--force") })
	c.importImage(layer, command)
	return c
}

// Start starts containerd and waits until it is ready.
func (c *Containerd) Start() {
	c.l.Helper()
	command := c.Command("containerd", "--config", filepath.Join(c.l.Dir("."), "containerd.toml"))
	c.Daemon = c.l.Spawn(c.l.Host, command[0], command[1:]...)
	c.l.Eventually(30*time.Second, func() error {
		if s := c.TryCRI("version"); s.Code != 0 {
			return errors.New(s.Output())
		}
		return nil
	})
}

// importImage passes containerd an archive as docker save writes it.
func (c *Containerd) importImage(layer string, command []string) {
	c.l.Helper()
	dir := c.l.Dir("image")
	c.l.Must(c.l.Host, "cp", layer, filepath.Join(dir, "layer.tar"))
	sum, _, _ := strings.Cut(c.l.Must(c.l.Host, "sha256sum", filepath.Join(dir, "layer.tar")), " ")
	type keys map[string]any
	c.l.WriteJSON("image/config.json", keys{
		"architecture": "amd64", "os": "linux",
		"config": keys{"Cmd": command},
		"rootfs": keys{"type": "layers", "diff_ids": []string{"sha256:" + sum}},
	})
	c.l.WriteJSON("image/manifest.json", []keys{{"Config": "config.json", "RepoTags": []string{ContainerdImage}, "Layers": []string{"layer.tar"}}})
	archive := filepath.Join(c.l.Dir("."), "image.tar")
	c.l.Must(c.l.Host, "tar", "-C", dir, "-cf", archive, ".")
	ctr := c.Ctr("images", "import", "--snapshotter", "native", archive)
	c.l.Must(c.l.Host, ctr[0], ctr[1:]...)
}

// Command runs a program in containerd's namespaces.
func (c *Containerd) Command(program string, args ...string) []string {
	return append([]string{"nsenter", "--target", c.Pid, "--pid", "--mount", "--", program}, args...)
}

// Ctr runs ctr in the namespace of CRI's containers.
func (c *Containerd) Ctr(args ...string) []string {
	return c.Command("ctr", append([]string{"--address", ContainerdSocket, "--namespace", "k8s.io"}, args...)...)
}

// TryCRI runs crictl.
func (c *Containerd) TryCRI(args ...string) world.Result {
	c.l.Helper()
	command := c.Command(c.Crictl[0], append(c.Crictl[1:], args...)...)
	return c.l.Run(c.l.Host, command[0], command[1:]...)
}

// Write writes a file in the lab's directory.
func (l *Lab) Write(name, content string) (path string) {
	l.Helper()
	path = filepath.Join(l.dir, name)
	l.must(os.WriteFile(path, []byte(content), 0o644))
	return path
}

// WriteJSON is like Write, with content encoded as JSON.
func (l *Lab) WriteJSON(name string, content any) (path string) {
	l.Helper()
	b, err := json.Marshal(content)
	l.must(err)
	return l.Write(name, string(b))
}
