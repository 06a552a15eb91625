// SPDX-License-Identifier: Apache-2.0

package cni

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	gocni "github.com/containerd/go-cni"

	"github.com/fairlead-net/fairlead/cmd/fairlead/world"
	"github.com/fairlead-net/fairlead/control/api"
	"github.com/fairlead-net/fairlead/test/lab"
)

// containerd is Debian's containerd on the lab's host, which serves Kubernetes' runtime
// interface (CRI), and crictl, which speaks it. test/crictl.sh builds that.
type containerd struct {
	*apart
	crictl []string
	daemon *world.Process
}

const containerdSocket = "/run/containerd/containerd.sock"

func newContainerd(t *testing.T) *containerd {
	t.Helper()
	cache, err := os.UserCacheDir()
	if err != nil {
		t.Fatal(err)
	}
	r := newRuntime(t, lab.Config{})
	// ctr has no flag for these directories.
	c := &containerd{apart: r.apart("mount --bind " + r.Dir("cni") + " /etc/cni && mount --bind " + r.Dir("opt") + " /opt")}
	c.crictl = []string{
		filepath.Join(cache, "fairlead", "crictl", "crictl"), "--config", r.write("crictl.yaml", ""), "--timeout", "20s",
		"--runtime-endpoint", "unix://" + containerdSocket, "--image-endpoint", "unix://" + containerdSocket,
	}
	r.write("containerd.toml", fmt.Sprintf(`version = 2
root = %q
state = "/run/containerd"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = %q
  disable_cgroup = true
  disable_apparmor = true
  restrict_oom_score_adj = true
[plugins."io.containerd.grpc.v1.cri".containerd]
  snapshotter = "native"
`, r.Dir("containerd"), criImage))
	// containerd calls loopback too, and looks in one directory only.
	r.Must(r.Host, "ln", "-s", filepath.Join(r.plugins, "fairlead-cni"), filepath.Join(debianPlugins, "loopback"), r.Dir("opt/cni/bin"))
	r.Dir("cni/net.d")
	c.start()
	t.Cleanup(func() { c.tryCRI("rmp", "--all", "--force") })
	c.importImage()
	return c
}

// start starts containerd and waits until it serves.
func (c *containerd) start() {
	c.Helper()
	command := c.enter("containerd", []string{"--config", filepath.Join(c.Dir("."), "containerd.toml")})
	c.daemon = c.Spawn(c.Host, command[0], command[1:]...)
	c.Eventually(20*time.Second, func() error {
		if s := c.tryCRI("version"); s.Code != 0 {
			return errors.New(s.Output())
		}
		return nil
	})
}

// criImage is the one image there is: pods' own, and their containers'.
const criImage = "localhost/box:latest"

// importImage hands containerd an archive as docker save writes it.
func (c *containerd) importImage() {
	c.Helper()
	layer := c.rootfs()
	dir := c.Dir("image")
	c.Must(c.Host, "mv", layer, filepath.Join(dir, "layer.tar"))
	sum, _, _ := strings.Cut(c.Must(c.Host, "sha256sum", filepath.Join(dir, "layer.tar")), " ")
	c.writeJSON("image/config.json", config{
		"architecture": "amd64", "os": "linux",
		"config": config{"Cmd": []string{"/bin/busybox", "sh", "-c", "while :; do /bin/busybox sleep 3600; done"}},
		"rootfs": config{"type": "layers", "diff_ids": []string{"sha256:" + sum}},
	})
	c.writeJSON("image/manifest.json", []config{{"Config": "config.json", "RepoTags": []string{criImage}, "Layers": []string{"layer.tar"}}})
	archive := filepath.Join(c.Dir("."), "image.tar")
	c.Must(c.Host, "tar", "-C", dir, "-cf", archive, ".")
	c.ctr("images", "import", "--snapshotter", "native", archive)
}

func (r *runtime) writeJSON(name string, content any) (path string) {
	r.Helper()
	b, err := json.Marshal(content)
	if err != nil {
		r.Fatal(err)
	}
	return r.write(name, string(b))
}

func (c *containerd) ctr(args ...string) string {
	c.Helper()
	return c.do("ctr", append([]string{"--address", containerdSocket, "--namespace", "k8s.io"}, args...)...)
}

// tryCRI runs crictl.
func (c *containerd) tryCRI(args ...string) world.Result {
	c.Helper()
	return c.try(c.crictl[0], append(c.crictl[1:], args...)...)
}

func (c *containerd) cri(args ...string) string {
	c.Helper()
	return c.do(c.crictl[0], append(c.crictl[1:], args...)...)
}

// describe writes what a pod and its container are, which serves the pod's name, and
// returns the files.
func (c *containerd) describe(name string, hostPort int) (pod, container string) {
	c.Helper()
	return c.writeJSON(name+"-pod.json", config{
			"metadata":      config{"name": name, "namespace": "default", "uid": name},
			"hostname":      name,
			"log_directory": c.Dir("logs"),
			"port_mappings": []config{{"protocol": 0, "container_port": 80, "host_port": hostPort}},
			"dns_config":    config{"servers": []string{"192.0.2.53"}, "searches": []string{"pods.test"}},
			"linux":         config{},
			"annotations":   config{"kubernetes.io/ingress-bandwidth": "20M"},
		}), c.writeJSON(name+"-container.json", config{
			"metadata": config{"name": name},
			"image":    config{"image": criImage},
			"command":  []string{"/bin/busybox", "sh", "-c", "echo " + name + " >/www/index.html; exec /bin/busybox httpd -f -p 80 -h /www"},
			"log_path": name + ".log",
			"linux":    config{},
		})
}

// pod starts one with a container in it, and returns the IDs of both.
func (c *containerd) pod(name string, hostPort int) (pod, container string) {
	c.Helper()
	podFile, containerFile := c.describe(name, hostPort)
	pod = c.cri("runp", podFile)
	container = c.cri("create", pod, containerFile, podFile)
	c.cri("start", container)
	return pod, container
}

// networkReady waits until containerd says whether it has a network.
func (c *containerd) networkReady(want bool) {
	c.Helper()
	c.Eventually(10*time.Second, func() error {
		var info struct {
			Status struct {
				Conditions []struct {
					Type   string
					Status bool
				}
			}
		}
		if err := json.Unmarshal([]byte(c.cri("info")), &info); err != nil {
			return err
		}
		for _, cond := range info.Status.Conditions {
			if cond.Type == "NetworkReady" && cond.Status == want {
				return nil
			}
		}
		return fmt.Errorf("conditions %+v, want NetworkReady %v", info.Status.Conditions, want)
	})
}

// address is a pod's.
func (c *containerd) address(pod string) string {
	c.Helper()
	return c.cri("inspectp", "--output", "go-template", "--template", "{{.status.network.ip}}", pod)
}

// A container of ctr's in a namespace that go-cni, containerd's own library, gives a network.
func TestCtr(t *testing.T) {
	t.Parallel()
	c := newContainerd(t)
	cni, err := gocni.New(gocni.WithPluginDir([]string{c.plugins}), gocni.WithConfListBytes(c.list("1.0.0", "pods", nil).Bytes))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := timeout()
	defer cancel()
	netns := c.container("web", nil).conf.NetNS
	const inside = "/run/web" // of the namespaces that containerd is in
	c.Must(c.Host, "touch", inside)
	c.Must(c.Host, "mount", "--bind", netns, inside)
	ports := gocni.WithCapabilityPortMap([]gocni.PortMapping{{HostPort: 8080, ContainerPort: 80, Protocol: "tcp"}})
	network, err := cni.Setup(ctx, "web", netns, ports)
	if err != nil {
		t.Fatal(err)
	}
	c.ctr("run", "--detach", "--snapshotter", "native", "--with-ns", "network:"+inside, criImage, "web", "/bin/busybox", "httpd", "-f", "-p", "80", "-h", "/www")
	c.served(c.Outside, lab.Host4, 8080, "served")
	c.served(c.Host, network.Interfaces["eth0"].IPConfigs[0].IP.String(), 80, "served")
	c.NoError("check", cni.Check(ctx, "web", netns))
	c.ctr("tasks", "kill", "--signal", "SIGKILL", "web")
	c.Eventually(5*time.Second, func() error {
		if left := c.ctr("tasks", "ls"); strings.Contains(left, "RUNNING") {
			return errors.New(left)
		}
		return nil
	})
	c.ctr("containers", "delete", "web")
	c.NoError("remove", cni.Remove(ctx, "web", netns, ports))
	c.Must(c.Host, "umount", inside)
	c.wantSandboxes("", 0)
}

// TestContainerd runs pods by CRI, as a kubelet does.
func TestContainerd(t *testing.T) {
	t.Parallel()
	c := newContainerd(t)
	c.networkReady(false) // there is no configuration
	c.write("cni/net.d/pods.conflist", strings.Replace(documented(t), `"ips": true`, `"ips": true, "dns": true`, 1))
	c.networkReady(true)
	anna, _ := c.pod("anna", 8080)
	if got := c.cri("inspectp", "--output", "go-template", "--template", "{{json .info.cniResult.DNS}}", anna); !strings.Contains(got, "192.0.2.53") || !strings.Contains(got, "pods.test") {
		t.Errorf("the plugin's result has DNS %s, want what the pod says", got)
	}
	ben, inBen := c.pod("ben", 8081)
	c.served(c.Outside, lab.Host4, 8080, "anna")
	c.served(c.Outside, lab.Host4, 8081, "ben")
	c.served(c.Host, "127.0.0.1", 8080, "anna")
	c.wantSandboxes("cni-"+ben[:12]+" pods\ncni-"+anna[:12]+" pods", 2)
	if got, want := c.Inspect("cni-" + anna[:12]).Config.Labels["io.kubernetes.pod.name"], "anna"; got != want {
		t.Errorf("label %q, want the pod's name", got)
	}
	limits := c.Inspect("cni-" + anna[:12]).NetworkSettings.Networks["pods"].Bandwidth
	if want := (api.Bandwidth{IngressRate: 20_000_000, IngressBurst: math.MaxUint32}); limits == nil || *limits != want {
		t.Errorf("limits %+v, want %+v, as the pod's annotation and containerd say", limits, want)
	}
	if got := c.cri("exec", "--sync", inBen, "/bin/busybox", "wget", "-qO-", "http://"+c.address(anna)+"/"); got != "anna" {
		t.Errorf("a pod reads %q from another, want its name", got)
	}
	cleo, _ := c.describe("cleo", 8080)
	if r := c.tryCRI("runp", cleo); r.Code == 0 || !strings.Contains(r.Output(), "8080") {
		t.Errorf("a pod with a host port that is taken: status %d\n%s", r.Code, r.Output())
	}
	c.wantSandboxes("cni-"+ben[:12]+" pods\ncni-"+anna[:12]+" pods", 2)

	// What is killed comes back, and pods do not notice.
	c.KillDaemon()
	c.served(c.Outside, lab.Host4, 8080, "anna")
	if r := c.tryCRI("runp", cleo); r.Code == 0 || !strings.Contains(r.Output(), "api.sock") {
		t.Errorf("a pod without a daemon: status %d\n%s", r.Code, r.Output())
	}
	if r := c.tryCRI("stopp", anna); r.Code == 0 || !strings.Contains(r.Output(), "api.sock") {
		t.Errorf("a pod that is to stop without a daemon: status %d\n%s", r.Code, r.Output())
	}
	c.StartDaemon()
	c.daemon.Kill()
	c.served(c.Outside, lab.Host4, 8081, "ben")
	c.start()

	c.cri("stopp", anna)
	c.wantSandboxes("cni-"+ben[:12]+" pods", 1)
	c.cri("rmp", anna)
	again, _ := c.pod("anna", 8080)
	c.served(c.Outside, lab.Host4, 8080, "anna")
	for _, pod := range []string{again, ben} {
		c.cri("stopp", pod)
		c.cri("rmp", pod)
	}
	c.wantSandboxes("", 0)
}

// bridgeConfiguration is of the plugins that a node had before.
const bridgeConfiguration = `{ "cniVersion": "1.0.0", "name": "pods", "plugins": [
  { "type": "bridge", "bridge": "cni0", "isGateway": true, "ipMasq": true,
    "ipam": { "type": "host-local", "ranges": [[{ "subnet": "10.78.0.0/16" }]], "routes": [{ "dst": "0.0.0.0/0" }] } },
  { "type": "portmap", "capabilities": { "portMappings": true } } ] }`

// exchange gives containerd another configuration, whose first plugin is named.
func (c *containerd) exchange(configuration, plugin string) {
	c.Helper()
	c.write("cni/net.d/pods.conflist", configuration)
	c.Eventually(10*time.Second, func() error {
		info := c.cri("info")
		if !strings.Contains(strings.ReplaceAll(info, " ", ""), `"type":"`+plugin+`"`) {
			return errors.New(info)
		}
		return nil
	})
}

// A node moves over, works as docs/cni.md shows, and moves back.
func TestContainerdMoves(t *testing.T) {
	t.Parallel()
	c := newContainerd(t)
	for _, plugin := range []string{"bridge", "host-local", "portmap"} {
		c.Must(c.Host, "ln", "-s", filepath.Join(debianPlugins, plugin), c.Dir("opt/cni/bin"))
	}
	others := func() {
		t.Helper()
		c.exchange(bridgeConfiguration, "bridge")
		pod, _ := c.pod("anna", 8080)
		c.served(c.Outside, lab.Host4, 8080, "anna")
		c.wantSandboxes("", 0)
		c.cri("stopp", pod)
		c.cri("rmp", pod)
		if left := c.do("sh", "-c", "iptables-save | grep -e --dport; ls /var/lib/cni/networks/pods/10.* 2>/dev/null || :"); left != "" {
			t.Errorf("the pod left behind:\n%s", left)
		}
	}
	others()
	c.exchange(documented(t), "fairlead-cni")
	c.asPrinted()
	c.wantSandboxes("", 0)
	others()
}

// asPrinted does what docs/cni.md shows.
func (c *containerd) asPrinted() {
	c.Helper()
	page, err := os.ReadFile("../../docs/cni.md")
	if err != nil {
		c.Fatal(err)
	}
	_, block, _ := strings.Cut(string(page), "\n## containerd, Kubernetes\n")
	_, block, _ = strings.Cut(block, "\n```\n")
	block, _, _ = strings.Cut(block, "\n```\n")
	image := fmt.Sprintf(`%q }, "command": [ "/bin/busybox", "httpd", "-f", "-h", "/www" ]`, criImage) // its own program sleeps
	script := c.write("printed.sh", "set -ex\ncd "+c.Dir("printed")+"\n"+strings.Replace(block, `"IMAGE" }`, image, 1)+"\n")
	r := c.try("env", "no_proxy=*", "PATH="+filepath.Dir(c.crictl[0])+":"+c.plugins+":"+os.Getenv("PATH"), "CRI_CONFIG_FILE="+filepath.Join(c.Dir("."), "crictl.yaml"),
		"CONTAINER_RUNTIME_ENDPOINT=unix://"+containerdSocket, "IMAGE_SERVICE_ENDPOINT=unix://"+containerdSocket, "sh", script)
	if r.Code != 0 || !strings.Contains(r.Stdout, "\nserved\n") || !strings.Contains(r.Stdout, "0.0.0.0:8080->80/tcp") {
		c.Errorf("docs/cni.md, as printed: status %d\n%s", r.Code, r.Output())
	}
}
