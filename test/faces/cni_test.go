// SPDX-License-Identifier: Apache-2.0

package faces

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/containernetworking/cni/libcni"
	current "github.com/containernetworking/cni/pkg/types/100"

	"github.com/fairlead-net/fairlead/bench/world"
	"github.com/fairlead-net/fairlead/test/lab"
)

// keys are a part of a configuration.
type keys map[string]any

// conflist is the network as the plugin is configured.
func (n network) conflist(socket string) []byte {
	own := keys{
		"type": "fairlead-cni", "host": "unix://" + socket,
		"subnets":      []keys{{"subnet": n.subnet4}, {"subnet": n.subnet6}},
		"capabilities": keys{"portMappings": true, "ips": true, "mac": true, "aliases": true},
	}
	if n.internal {
		own["internal"] = true
	}
	if n.apart {
		own["isolated"] = true
	}
	if n.mtu > 0 {
		own["mtu"] = n.mtu
	}
	b, _ := json.Marshal(keys{"cniVersion": "1.0.0", "name": n.name, "plugins": []keys{own}}) // of plain values
	return b
}

// runtime is a container runtime with nothing but libcni.
type runtime struct {
	*lab.Lab
	cni   *libcni.CNIConfig
	mu    sync.Mutex
	lists map[string]*libcni.NetworkConfigList
	pods  map[string]*pod
}

// pod is a namespace with a program, in networks in the order they were joined.
type pod struct {
	container
	host    *world.Host
	program *world.Process
	joined  []string // by the number of the device; "": left
}

func startLibcni(t *testing.T) (*lab.Lab, face) {
	l := newLab(t, lab.Config{})
	l.StartDaemon()
	f := &runtime{
		Lab: l, cni: libcni.NewCNIConfigWithCacheDir([]string{filepath.Dir(plugin)}, l.Dir("cache"), nil),
		lists: map[string]*libcni.NetworkConfigList{}, pods: map[string]*pod{},
	}
	t.Cleanup(func() {
		for _, p := range f.pods {
			p.host.Close()
		}
	})
	return l, f
}

// list is the configuration of a network.
func (f *runtime) list(network string) *libcni.NetworkConfigList {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.lists[network]
}

// pod is a container that runs.
func (f *runtime) pod(name string) (*pod, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	p := f.pods[name]
	if p == nil {
		return nil, fmt.Errorf("no container %s", name)
	}
	return p, nil
}

func (f *runtime) createNetwork(n network) error {
	list, err := libcni.NetworkConfFromBytes(n.conflist(f.Socket()))
	if err != nil {
		return err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.lists[n.name] = list
	return nil
}

// removeNetwork has no verb in CNI.
func (f *runtime) removeNetwork(string) error { return errLacks }

// conf returns what the plugin receives about a container's next interface.
func (p *pod) conf(device int) (*libcni.RuntimeConf, error) {
	ports, err := mappings(p.publish)
	if err != nil {
		return nil, err
	}
	capabilities := keys{"portMappings": ports, "aliases": keys{p.network: append([]string{p.name}, p.aliases...)}}
	if device == 0 && p.ip != "" {
		capabilities["ips"] = []string{p.ip + "/24"}
	}
	if device == 0 && p.mac != "" {
		capabilities["mac"] = p.mac
	}
	return &libcni.RuntimeConf{
		ContainerID: longID(p.name), NetNS: p.host.NetNS(), IfName: fmt.Sprint("eth", device), CapabilityArgs: capabilities,
	}, nil
}

// longID is a container's ID.
func longID(name string) string { return fmt.Sprintf("%x", sha256.Sum256([]byte(name))) }

// mappings converts ports from docker's form to CNI's, which has no port 0.
func mappings(publish []string) (all []keys, err error) {
	for _, p := range publish {
		p, protocol, ok := strings.Cut(p, "/")
		if !ok {
			protocol = "tcp"
		}
		parts := append([]string{"", ""}, strings.Split(p, ":")...)
		own, host, ip := parts[len(parts)-1], parts[len(parts)-2], parts[len(parts)-3]
		if host == "" {
			continue
		}
		first, last, err := span(own)
		hostFirst, _, err2 := span(host)
		if err != nil || err2 != nil {
			return nil, fmt.Errorf("port %s: %v, %v", p, err, err2)
		}
		for i := range last - first + 1 {
			m := keys{"hostPort": hostFirst + i, "containerPort": first + i, "protocol": protocol}
			if ip != "" {
				m["hostIP"] = netip.MustParseAddr(ip)
			}
			all = append(all, m)
		}
	}
	return all, nil
}

// span reads A or A-B.
func span(text string) (first, last int, err error) {
	a, b, is := strings.Cut(text, "-")
	if !is {
		b = a
	}
	if first, err = strconv.Atoi(a); err == nil {
		last, err = strconv.Atoi(b)
	}
	return first, last, err
}

// add joins a pod to one more network. The plugin is started by the host's thread, in
// its namespaces.
func (f *runtime) add(p *pod, network string) (*current.Result, error) {
	conf, err := p.conf(len(p.joined))
	if err != nil {
		return nil, err
	}
	p.joined = append(p.joined, network)
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	var result *current.Result
	err = f.Host.Do(func() error {
		r, err := f.cni.AddNetworkList(ctx, f.list(network), conf)
		if err == nil {
			result, err = current.NewResultFromResult(r)
		}
		return err
	})
	return result, err
}

// del takes a pod out of the network of a device.
func (f *runtime) del(p *pod, device int) error {
	network := p.joined[device]
	if network == "" {
		return nil
	}
	p.joined[device] = ""
	conf, err := p.conf(device)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	return f.Host.Do(func() error { return f.cni.DelNetworkList(ctx, f.list(network), conf) })
}

func (f *runtime) run(c container) error {
	h, err := world.New(c.name)
	if err != nil {
		return err
	}
	p := &pod{container: c, host: h}
	f.mu.Lock()
	f.pods[c.name] = p
	f.mu.Unlock()
	result, err := f.add(p, c.network)
	if err == nil {
		err = f.resolve(p, result)
	}
	if err == nil {
		command := c.serve(peer)
		p.program, err = h.Spawn(command[0], command[1:]...)
	}
	if err != nil {
		_ = f.remove(c.name) // what could be made
	}
	return err
}

// resolve gives a pod a file with the resolvers of the result, or else the host's.
func (f *runtime) resolve(p *pod, result *current.Result) error {
	text := "nameserver " + lab.Outside4 + "\n"
	if len(result.DNS.Nameservers) > 0 {
		text = "nameserver " + strings.Join(result.DNS.Nameservers, "\nnameserver ") + "\n"
	}
	path := filepath.Join(f.Dir("resolv"), p.name)
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		return err
	}
	_, err := on(p.host, "mount", "--bind", path, "/etc/resolv.conf")
	return err
}

// restart ends a container, and makes another with its ID.
func (f *runtime) restart(name string) error {
	p, err := f.pod(name)
	if err != nil {
		return err
	}
	if err := f.remove(name); err != nil {
		return err
	}
	return f.run(p.container)
}

func (f *runtime) remove(name string) error {
	p, err := f.pod(name)
	if err != nil {
		return err
	}
	if p.program != nil {
		p.program.Stop(5 * time.Second)
	}
	for device := range slices.Backward(p.joined) {
		if err := f.del(p, device); err != nil {
			return err
		}
	}
	p.host.Close()
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.pods, name)
	return nil
}

func (f *runtime) connect(network, name string) error {
	p, err := f.pod(name)
	if err == nil {
		_, err = f.add(p, network)
	}
	return err
}

func (f *runtime) disconnect(network, name string) error {
	p, err := f.pod(name)
	if err != nil {
		return err
	}
	return f.del(p, slices.Index(p.joined, network))
}

func (f *runtime) exec(name string, args ...string) (string, error) {
	p, err := f.pod(name)
	if err != nil {
		return "", err
	}
	return on(p.host, peer, args...)
}

func (f *runtime) netns(name string) (string, error) {
	p, err := f.pod(name)
	if err != nil {
		return "", err
	}
	return p.host.NetNS(), nil
}

func (f *runtime) id(name string) (string, error) { return longID(name), nil }

// ports has no verb in CNI.
func (f *runtime) ports(string) (string, error) { return "", errLacks }

func (f *runtime) published(name string) (string, error) {
	return command(f.Host, f.Command, f.Binary, "port", "cni-"+longID(name)[:12])
}

func (f *runtime) kill() { f.KillDaemon() }
