// SPDX-License-Identifier: Apache-2.0

package open_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"log/slog"
	"math/big"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/fairlead-net/fairlead/control/cluster/embed"
	"github.com/fairlead-net/fairlead/control/cluster/kv"
	"github.com/fairlead-net/fairlead/control/cluster/kv/kvtest"
	"github.com/fairlead-net/fairlead/control/cluster/kv/open"
	"github.com/fairlead-net/fairlead/control/cluster/token"
)

// admitted and refused use a store once. A store that is still starting gets its time.
func admitted(t *testing.T, url string, o open.Options) {
	t.Helper()
	s, err := open.Open(url, o)
	if err != nil {
		t.Error(err)
		return
	}
	defer s.Close()
	deadline := time.Now().Add(time.Minute)
	for {
		err = s.Commit(t.Context(), nil, kv.Put("secrets/key", []byte(fmt.Sprint(time.Now()))))
		if err == nil || time.Now().After(deadline) {
			break
		}
		time.Sleep(200 * time.Millisecond)
	}
	if err == nil {
		_, err = s.Get(t.Context(), "secrets/key")
	}
	if err != nil {
		t.Errorf("%s with %v: %v", url, o, err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- s.Alive(ctx, "secrets/alive", []byte("x"), 10*time.Second) }()
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		if _, err = s.Get(t.Context(), "secrets/alive"); err == nil || time.Now().After(deadline) {
			break
		}
	}
	cancel()
	<-done
	if err != nil {
		t.Errorf("%s with %v: alive: %v", url, o, err)
	}
}

// refused expects that neither reading nor writing works, and that the error says what of.
func refused(t *testing.T, url string, o open.Options, because ...string) {
	t.Helper()
	s, err := open.Open(url, o)
	if err != nil {
		t.Error(err)
		return
	}
	defer s.Close()
	_, err1 := s.Get(t.Context(), "secrets/key")
	err2 := s.Commit(t.Context(), nil, kv.Put("secrets/key", []byte("forged")))
	for _, err := range []error{err1, err2} {
		said := false
		for _, text := range because {
			said = said || strings.Contains(fmt.Sprint(err), text)
		}
		if !errors.Is(err, kv.ErrUnavailable) || !said || o.Password != "" && strings.Contains(err.Error(), o.Password) {
			t.Errorf("%s with %v: %v, want ErrUnavailable that says one of %q", url, o, err, because)
		}
	}
}

// pki is an authority with a server's and a client's certificate, in files.
type pki struct{ ca, serverCert, serverKey, clientCert, clientKey string }

// newPKI makes one. Java reads no Ed25519 keys, so these are ECDSA's.
func newPKI(t *testing.T) pki {
	t.Helper()
	dir := t.TempDir()
	caKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	ca := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test CA " + t.Name()}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	write := func(name string, template *x509.Certificate, key *ecdsa.PrivateKey) (string, string) {
		der, err := x509.CreateCertificate(rand.Reader, template, ca, key.Public(), caKey)
		if err != nil {
			t.Fatal(err)
		}
		raw, err := x509.MarshalPKCS8PrivateKey(key)
		if err != nil {
			t.Fatal(err)
		}
		cert, private := filepath.Join(dir, name+".pem"), filepath.Join(dir, name+"-key.pem")
		err1 := os.WriteFile(cert, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600)
		err2 := os.WriteFile(private, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: raw}), 0o600)
		if err := errors.Join(err1, err2); err != nil {
			t.Fatal(err)
		}
		return cert, private
	}
	leaf := func(serial int64, usage x509.ExtKeyUsage) (string, string) {
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		return write(fmt.Sprint(serial), &x509.Certificate{SerialNumber: big.NewInt(serial), Subject: pkix.Name{CommonName: "leaf"}, NotBefore: ca.NotBefore, NotAfter: ca.NotAfter,
			KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{usage}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}}, key)
	}
	var p pki
	p.ca, _ = write("ca", ca, caKey)
	p.serverCert, p.serverKey = leaf(2, x509.ExtKeyUsageServerAuth)
	p.clientCert, p.clientKey = leaf(3, x509.ExtKeyUsageClientAuth)
	return p
}

// run runs a server for the duration of the test, and shows the end of its log if that fails.
func run(t *testing.T, name string, args ...string) {
	t.Helper()
	kvtest.Launch(t, &kvtest.Server{Command: func(string) *exec.Cmd { return exec.Command(name, args...) }})
}

// TestTLS has each store accept clients with a certificate of its authority, and refuse others.
func TestTLS(t *testing.T) {
	root := os.Getenv(storesDir)
	for name, start := range map[string]func(t *testing.T, p pki) (url string){
		"etcd": func(t *testing.T, p pki) string {
			run(t, root+"/usr/bin/etcd", "--data-dir", t.TempDir(), "--listen-client-urls", "https://127.0.0.1:3379", "--advertise-client-urls", "https://127.0.0.1:3379",
				"--listen-peer-urls", "http://127.0.0.1:3380", "--client-cert-auth", "--trusted-ca-file", p.ca, "--cert-file", p.serverCert, "--key-file", p.serverKey, "--unsafe-no-fsync")
			return "etcd+tls://127.0.0.1:3379"
		},
		"consul": func(t *testing.T, p pki) string {
			run(t, root+"/usr/bin/consul", "agent", "-server", "-bootstrap-expect=1", "-data-dir", t.TempDir(), "-bind=127.0.0.1", "-node=tls", "-log-level=warn", "-hcl",
				fmt.Sprintf(`ports { http = -1 https = 3501 dns = -1 server = 3502 serf_lan = 3503 serf_wan = -1 grpc = -1 } verify_incoming = true ca_file = %q cert_file = %q key_file = %q disable_update_check = true`,
					p.ca, p.serverCert, p.serverKey))
			return "consul+tls://127.0.0.1:3501"
		},
		"zk": func(t *testing.T, p pki) string {
			dir := t.TempDir()
			both := filepath.Join(dir, "server.pem")
			cert, err1 := os.ReadFile(p.serverCert)
			key, err2 := os.ReadFile(p.serverKey)
			err3 := os.WriteFile(both, append(key, cert...), 0o600)
			conf := fmt.Sprintf("tickTime=200\ndataDir=%s/data\nsecureClientPort=3181\nsecureClientPortAddress=127.0.0.1\nadmin.enableServer=false\nmaxSessionTimeout=20000\n"+
				"serverCnxnFactory=org.apache.zookeeper.server.NettyServerCnxnFactory\nssl.keyStore.location=%s\nssl.keyStore.type=PEM\nssl.trustStore.location=%s\nssl.trustStore.type=PEM\nssl.clientAuth=need\n", dir, both, p.ca)
			if err := errors.Join(err1, err2, err3, os.WriteFile(dir+"/zoo.cfg", []byte(conf), 0o600)); err != nil {
				t.Fatal(err)
			}
			run(t, "java", "-Xmx256m", "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", "-cp", classpath(root), "org.apache.zookeeper.server.quorum.QuorumPeerMain", dir+"/zoo.cfg")
			return "zk+tls://127.0.0.1:3181"
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p, others := newPKI(t), newPKI(t)
			url := start(t, p)
			admitted(t, url, open.Options{CACert: p.ca, Cert: p.clientCert, Key: p.clientKey})
			refused(t, url, open.Options{CACert: others.ca, Cert: p.clientCert, Key: p.clientKey}, "unknown authority")
			refused(t, url, open.Options{Cert: p.clientCert, Key: p.clientKey}, "unknown authority")
			refused(t, url, open.Options{CACert: p.ca, Cert: others.clientCert, Key: others.clientKey}, "tls", "EOF", "reset", "broken pipe")
			refused(t, url, open.Options{CACert: p.ca}, "tls", "EOF", "reset", "broken pipe")
			refused(t, strings.Replace(url, "+tls", "", 1), open.Options{}, map[string]string{"etcd": "it may require TLS"}[name])
		})
	}
}

// record is a log that is read while it is written.
type record struct {
	mu   sync.Mutex
	text strings.Builder
}

func (r *record) Write(b []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.text.Write(b)
}

func (r *record) String() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.text.String()
}

// TestToken has the embedded store accept hosts with its token, and refuse others. Nothing of that is
// an error of the daemon, and neither is the end of the store.
func TestToken(t *testing.T) {
	t.Parallel()
	const listen = "127.0.0.1:3479"
	made, log := token.New(), &record{}
	s, err := embed.Start(t.Context(), embed.Config{
		Dir: t.TempDir(), Listen: netip.MustParseAddrPort(listen), Token: made, Log: slog.New(slog.NewTextHandler(log, nil)), NoSync: true,
	})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		s.Close()
		for line := range strings.Lines(log.String()) {
			if strings.Contains(line, "level=ERROR") {
				t.Errorf("logged: %s", line)
			}
		}
	}()
	url := "etcd://" + listen
	admitted(t, url, open.Options{Token: made})
	refused(t, url, open.Options{Token: token.New()}, "its join token is another one")
	refused(t, url, open.Options{}, "it may require TLS")
	refused(t, "etcd+tls://"+listen, open.Options{}, "unknown authority", "certificate")
}

// TestCredentials has each store accept a user with the right password, and refuse others.
func TestCredentials(t *testing.T) {
	root := os.Getenv(storesDir)
	const acl = "8f1c3a52-91d5-4e0c-a3a2-5f1d7a0e4b11"
	for name, c := range map[string]struct {
		start func(t *testing.T) (url string)
		right []open.Options
		wrong []open.Options
		says  []string
	}{
		"etcd": {
			start: func(t *testing.T) string {
				run(t, root+"/usr/bin/etcd", "--data-dir", t.TempDir(), "--listen-client-urls", "http://127.0.0.1:3579", "--advertise-client-urls", "http://127.0.0.1:3579",
					"--listen-peer-urls", "http://127.0.0.1:3580", "--unsafe-no-fsync")
				enableAuth(t, "127.0.0.1:3579", "right-password")
				return "etcd://127.0.0.1:3579"
			},
			right: []open.Options{{User: "root", Password: "right-password"}},
			wrong: []open.Options{{User: "root", Password: "wrong-password"}, {}},
			says:  []string{"authentication failed", "user name is empty"},
		},
		"consul": {
			start: func(t *testing.T) string {
				run(t, root+"/usr/bin/consul", "agent", "-server", "-bootstrap-expect=1", "-data-dir", t.TempDir(), "-bind=127.0.0.1", "-node=acl", "-log-level=warn", "-hcl",
					`ports { http = 3601 dns = -1 server = 3602 serf_lan = 3603 serf_wan = -1 grpc = -1 } disable_update_check = true acl { enabled = true default_policy = "deny" tokens { master = "`+acl+`" } }`)
				return "consul://127.0.0.1:3601"
			},
			right: []open.Options{{Password: acl}},
			wrong: []open.Options{{Password: strings.Replace(acl, "8", "9", 1)}, {}},
			says:  []string{"ACL not found", "ermission denied"},
		},
		"zk": {
			start: func(t *testing.T) string {
				dir := t.TempDir()
				conf := fmt.Sprintf("tickTime=200\ndataDir=%s/data\nclientPort=3281\nclientPortAddress=127.0.0.1\nadmin.enableServer=false\nmaxSessionTimeout=20000\n", dir)
				if err := os.WriteFile(dir+"/zoo.cfg", []byte(conf), 0o600); err != nil {
					t.Fatal(err)
				}
				run(t, "java", "-Xmx256m", "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", "-cp", classpath(root), "org.apache.zookeeper.server.quorum.QuorumPeerMain", dir+"/zoo.cfg")
				return "zk://127.0.0.1:3281"
			},
			right: []open.Options{{User: "fairlead", Password: "right-password"}},
			wrong: []open.Options{{User: "fairlead", Password: "wrong-password"}, {}},
			says:  []string{"not authenticated"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			url := c.start(t)
			for _, o := range c.right {
				admitted(t, url, o)
			}
			for _, o := range c.wrong {
				refused(t, url, o, c.says...)
			}
		})
	}
}

// enableAuth makes an etcd ask for a password.
func enableAuth(t *testing.T, addr, password string) {
	t.Helper()
	c, err := clientv3.New(clientv3.Config{Endpoints: []string{addr}})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	_, err1 := c.UserAdd(ctx, "root", password)
	_, err2 := c.UserGrantRole(ctx, "root", "root")
	_, err3 := c.AuthEnable(ctx)
	if err := errors.Join(err1, err2, err3); err != nil {
		t.Fatal(err)
	}
}
