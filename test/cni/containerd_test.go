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

	"github.com/fairlead-net/fairlead/control/api"
	"github.com/fairlead-net/fairlead/test/lab"
)

// containerd is Debian's containerd on the lab's host.
type containerd struct {
	*apart
	*lab.Containerd
}

func newContainerd(t *testing.T) *containerd {
	t.Helper()
	r := newRuntime(t, lab.Config{})
	c := r.NewContainerd(r.rootfs(), []string{"/bin/busybox", "sh", "-c", "while :; do /bin/busybox sleep 3600; done"},
		filepath.Join(r.plugins, "fairlead-cni"), filepath.Join(debianPlugins, "loopback")) // it calls that too
	return &containerd{r.at(c.Pid), c}
}

func (c *containerd) ctr(args ...string) string {
	c.Helper()
	command := c.Ctr(args...)
	return strings.TrimSpace(c.Must(c.Host, command[0], command[1:]...))
}

func (c *containerd) cri(args ...string) string {
	c.Helper()
	r := c.TryCRI(args...)
	if r.Code != 0 {
		c.Fatalf("crictl %s: status %d\n%s", strings.Join(args, " "), r.Code, r.Output())
	}
	return strings.TrimSpace(r.Stdout)
}

// describe writes what a pod and its container are, which serves the pod's name, and
// returns the files.
func (c *containerd) describe(name string, hostPort int) (pod, container string) {
	c.Helper()
	return c.WriteJSON(name+"-pod.json", config{
			"metadata":      config{"name": name, "namespace": "default", "uid": name},
			"hostname":      name,
			"log_directory": c.Dir("logs"),
			"port_mappings": []config{{"protocol": 0, "container_port": 80, "host_port": hostPort}},
			"dns_config":    config{"servers": []string{"192.0.2.53"}, "searches": []string{"pods.test"}},
			"linux":         config{},
			"annotations":   config{"kubernetes.io/ingress-bandwidth": "20M"},
		}), c.WriteJSON(name+"-container.json", config{
			"metadata": config{"name": name},
			"image":    config{"image": lab.ContainerdImage},
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
	c.ctr("run", "--detach", "--snapshotter", "native", "--with-ns", "network:"+inside, lab.ContainerdImage, "web", "/bin/busybox", "httpd", "-f", "-p", "80", "-h", "/www")
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
	c.Write("cni/net.d/pods.conflist", strings.Replace(documented(t), `"ips": true`, `"ips": true, "dns": true`, 1))
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
	if r := c.TryCRI("runp", cleo); r.Code == 0 || !strings.Contains(r.Output(), "8080") {
		t.Errorf("a pod with a host port that is taken: status %d\n%s", r.Code, r.Output())
	}
	c.wantSandboxes("cni-"+ben[:12]+" pods\ncni-"+anna[:12]+" pods", 2)

	// What is killed comes back, and pods do not notice.
	c.KillDaemon()
	c.served(c.Outside, lab.Host4, 8080, "anna")
	if r := c.TryCRI("runp", cleo); r.Code == 0 || !strings.Contains(r.Output(), "api.sock") {
		t.Errorf("a pod without a daemon: status %d\n%s", r.Code, r.Output())
	}
	if r := c.TryCRI("stopp", anna); r.Code == 0 || !strings.Contains(r.Output(), "api.sock") {
		t.Errorf("a pod that is to stop without a daemon: status %d\n%s", r.Code, r.Output())
	}
	c.StartDaemon()
	c.Containerd.Daemon.Kill()
	c.served(c.Outside, lab.Host4, 8081, "ben")
	c.Containerd.Start()

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
	c.Write("cni/net.d/pods.conflist", configuration)
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
	image := fmt.Sprintf(`%q }, "command": [ "/bin/busybox", "httpd", "-f", "-h", "/www" ]`, lab.ContainerdImage) // its own program sleeps
	script := c.Write("printed.sh", "set -ex\ncd "+c.Dir("printed")+"\n"+strings.Replace(block, `"IMAGE" }`, image, 1)+"\n")
	r := c.try("env", "no_proxy=*", "PATH="+filepath.Dir(c.Crictl[0])+":"+c.plugins+":"+os.Getenv("PATH"), "CRI_CONFIG_FILE="+filepath.Join(c.Dir("."), "crictl.yaml"),
		"CONTAINER_RUNTIME_ENDPOINT=unix://"+lab.ContainerdSocket, "IMAGE_SERVICE_ENDPOINT=unix://"+lab.ContainerdSocket, "sh", script)
	if r.Code != 0 || !strings.Contains(r.Stdout, "\nserved\n") || !strings.Contains(r.Stdout, "0.0.0.0:8080->80/tcp") {
		c.Errorf("docs/cni.md, as printed: status %d\n%s", r.Code, r.Output())
	}
}
