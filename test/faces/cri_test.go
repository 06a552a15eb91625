// SPDX-License-Identifier: Apache-2.0

package faces

import (
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/fairlead-net/fairlead/test/lab"
)

// cri is Kubernetes' runtime interface, served by Debian's containerd. It knows one
// network, whose pods have no say in their addresses.
type cri struct {
	*lab.Lab
	containerd *lab.Containerd
	mu         sync.Mutex
	pods       map[string]criPod
}

// criPod is a pod with one container.
type criPod struct {
	container
	pod, inside string // their IDs
}

// criNetwork is the one of the stage that pods are in.
const criNetwork = "web"

func startCRI(t *testing.T) (*lab.Lab, face) {
	l := newLab(t, lab.Config{})
	l.StartDaemon()
	f := &cri{l, l.NewContainerd(image(l), []string{"/peer", "serve", "pod", "1"}, plugin, "/usr/lib/cni/loopback"), sync.Mutex{}, map[string]criPod{}}
	t.Cleanup(func() {
		if l.Daemon == nil { // it has to take pods' networks back
			l.StartDaemon()
		}
	})
	return l, f
}

// do runs crictl.
func (f *cri) do(args ...string) (string, error) {
	r := f.containerd.TryCRI(args...)
	if r.Code != 0 {
		return "", fmt.Errorf("crictl %s: status %d: %s", strings.Join(args, " "), r.Code, strings.TrimSpace(r.Output()))
	}
	return strings.TrimSpace(r.Stdout), nil
}

func (f *cri) get(name string) (criPod, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	p, ok := f.pods[name]
	if !ok {
		return p, fmt.Errorf("no pod %s", name)
	}
	return p, nil
}

func (f *cri) createNetwork(n network) error {
	if n.name != criNetwork {
		return errLacks
	}
	f.Write("cni/net.d/"+n.name+".conflist", string(n.conflist(f.Socket())))
	f.Eventually(patience, func() error { // containerd looks for it
		info, err := f.do("info")
		if err == nil && !strings.Contains(info, `"Name": "`+n.name+`"`) {
			err = errors.New("containerd has not read the network yet")
		}
		return err
	})
	return nil
}

func (f *cri) removeNetwork(string) error { return errLacks }

func (f *cri) run(c container) error {
	if c.network != criNetwork || c.ip != "" || c.mac != "" {
		return errLacks
	}
	ports, err := mappings(c.publish)
	if err != nil {
		return err
	}
	var given []keys
	for _, m := range ports {
		p := keys{"protocol": map[any]int{"tcp": 0, "udp": 1}[m["protocol"]], "container_port": m["containerPort"], "host_port": m["hostPort"]}
		if ip, ok := m["hostIP"]; ok {
			p["host_ip"] = ip
		}
		given = append(given, p)
	}
	podFile := f.WriteJSON(c.name+"-pod.json", keys{
		"metadata": keys{"name": c.name, "namespace": "default", "uid": c.name},
		"hostname": c.name, "log_directory": f.Dir("logs"), "port_mappings": given, "linux": keys{},
	})
	containerFile := f.WriteJSON(c.name+"-container.json", keys{
		"metadata": keys{"name": c.name}, "image": keys{"image": lab.ContainerdImage},
		"command": c.serve("/peer"), "log_path": c.name + ".log", "linux": keys{},
	})
	p := criPod{container: c}
	if p.pod, err = f.do("runp", podFile); err != nil {
		return err
	}
	if p.inside, err = f.do("create", p.pod, containerFile, podFile); err != nil {
		return err
	}
	f.mu.Lock()
	f.pods[c.name] = p
	f.mu.Unlock()
	_, err = f.do("start", p.inside)
	return err
}

// restart recreates a pod, as a kubelet does.
func (f *cri) restart(name string) error {
	p, err := f.get(name)
	if err != nil {
		return err
	}
	if err := f.remove(name); err != nil {
		return err
	}
	return f.run(p.container)
}

func (f *cri) remove(name string) error {
	p, err := f.get(name)
	if err != nil {
		return err
	}
	_, err = f.do("rmp", "--force", p.pod)
	return err
}

func (f *cri) connect(string, string) error { return errLacks }

func (f *cri) disconnect(string, string) error { return errLacks }

func (f *cri) exec(name string, args ...string) (string, error) {
	p, err := f.get(name)
	if err != nil {
		return "", err
	}
	return f.do(append([]string{"exec", "--sync", p.inside, "/peer"}, args...)...)
}

func (f *cri) netns(name string) (string, error) {
	p, err := f.get(name)
	if err != nil {
		return "", err
	}
	text, err := f.do("inspectp", p.pod)
	if err != nil {
		return "", err
	}
	var state struct {
		Info struct {
			RuntimeSpec struct {
				Linux struct {
					Namespaces []struct{ Type, Path string }
				}
			}
		}
	}
	if err := json.Unmarshal([]byte(text), &state); err != nil {
		return "", err
	}
	for _, ns := range state.Info.RuntimeSpec.Linux.Namespaces {
		if ns.Type == "network" {
			return filepath.Clean(strings.Replace(ns.Path, "/var/run/", "/run/", 1)), nil
		}
	}
	return "", fmt.Errorf("pod %s has no network namespace", name)
}

func (f *cri) id(name string) (string, error) {
	p, err := f.get(name)
	return p.inside, err
}

// ports are not shown by crictl but as they were asked for.
func (f *cri) ports(string) (string, error) { return "", errLacks }

func (f *cri) published(name string) (string, error) {
	p, err := f.get(name)
	if err != nil {
		return "", err
	}
	return command(f.Host, f.Command, f.Binary, "port", "cni-"+p.pod[:12])
}

func (f *cri) kill() { f.KillDaemon() }
