// SPDX-License-Identifier: Apache-2.0

// Package open opens the store of a cluster that a URL names.
package open

import (
	"cmp"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/fairlead-net/fairlead/control/cluster/kv"
	"github.com/fairlead-net/fairlead/control/cluster/kv/consul"
	"github.com/fairlead-net/fairlead/control/cluster/kv/etcd"
	"github.com/fairlead-net/fairlead/control/cluster/kv/zk"
	"github.com/fairlead-net/fairlead/control/cluster/token"
)

// Options are how the store knows this host, and how this host knows the store. Files are in PEM.
type Options struct {
	CACert string // file of the authorities that may have signed the store's certificate; "": the host's
	Cert   string // file of this host's certificate; "": none
	Key    string // file of its key; with Cert only

	// User and Password are etcd's, those of ZooKeeper's digest scheme, or those of HTTP before Consul.
	// For Consul without a user, the password is an ACL token.
	User, Password string

	// Token is that of an embedded store, in place of certificates.
	Token token.Token

	Log *slog.Logger
}

// kinds are the stores by their URL's scheme. "+tls" may follow it.
var kinds = map[string]struct {
	port uint16 // default
	open func(endpoints []string, conf *tls.Config, o Options) (kv.Backend, error)
}{
	"etcd": {2379, func(endpoints []string, conf *tls.Config, o Options) (kv.Backend, error) {
		return etcd.New(etcd.Config{Endpoints: endpoints, TLS: conf, User: o.User, Password: o.Password}), nil
	}},
	"consul": {8500, func(endpoints []string, conf *tls.Config, o Options) (kv.Backend, error) {
		if len(endpoints) > 1 {
			return nil, errors.New("a Consul has one address, that of its agent on this host or of a server")
		}
		cfg := consul.Config{Addr: endpoints[0], TLS: conf, User: o.User, Password: o.Password}
		if o.User == "" {
			cfg.Token, cfg.Password = o.Password, ""
		}
		return consul.New(cfg)
	}},
	"zk": {2181, func(endpoints []string, conf *tls.Config, o Options) (kv.Backend, error) {
		return zk.New(zk.Config{Servers: endpoints, TLS: conf, User: o.User, Password: o.Password}), nil
	}},
}

// Open returns the store that a URL names: etcd://HOST[:PORT][,HOST[:PORT]]…, or consul:// or zk://,
// each with "+tls" if need be. A CA or a certificate among the options means TLS too. It does not
// wait for the store: what cannot work, ever, is an error, and all else is seen in the store's health.
func Open(rawURL string, o Options) (kv.Store, error) {
	scheme, endpoints, err := parse(rawURL)
	if err != nil {
		return nil, err
	}
	scheme, encrypted := strings.CutSuffix(scheme, "+tls")
	var conf *tls.Config
	switch {
	case !o.Token.IsZero() && (scheme != "etcd" || o.CACert != "" || o.Cert != "" || o.Key != ""):
		return nil, fmt.Errorf("store %s: a join token is for the embedded store of another host, and needs no certificates", rawURL)
	case !o.Token.IsZero():
		if conf, err = o.Token.Client(); err != nil {
			return nil, fmt.Errorf("store %s: %w", rawURL, err)
		}
	case encrypted || o.CACert != "" || o.Cert != "" || o.Key != "":
		if conf, err = o.tls(); err != nil {
			return nil, fmt.Errorf("store %s: %w", rawURL, err)
		}
	}
	if o.User != "" && o.Password == "" {
		return nil, fmt.Errorf("store %s: a user without a password", rawURL)
	}
	b, err := kinds[scheme].open(endpoints, conf, o)
	if err != nil {
		return nil, fmt.Errorf("store %s: %w", rawURL, err)
	}
	return kv.New(b, kv.Config{Name: rawURL, Log: o.Log, Remedy: func(err error) string { return remedy(scheme, conf != nil, o, err) }}), nil
}

// remedy returns what may help if a store does not answer because one side wants TLS or another certificate.
func remedy(scheme string, encrypted bool, o Options, err error) string {
	text := err.Error()
	has := func(any ...string) bool {
		return slices.ContainsFunc(any, func(s string) bool { return strings.Contains(text, s) })
	}
	switch {
	case scheme != "etcd":
		return ""
	case !encrypted && has("error reading server preface", "EOF", "connection reset", "broken pipe", "malformed HTTP"):
		return "it may require TLS: write etcd+tls:// and give its certificates, or, if another host embeds it, that host's join token with --store-token FILE"
	case !o.Token.IsZero() && has("unknown authority", "bad certificate", "certificate required"):
		return "its join token is another one: compare with what `fairlead cluster token` prints on the host that embeds it"
	case encrypted && has("first record does not look like a TLS handshake"):
		return "it does not use TLS"
	}
	return ""
}

// Check returns an error unless Open would accept a URL.
func Check(rawURL string) error {
	_, _, err := parse(rawURL)
	return err
}

// parse splits a store's URL into its scheme and its addresses, with ports.
func parse(rawURL string) (scheme string, endpoints []string, err error) {
	scheme, rest, ok := strings.Cut(rawURL, "://")
	kind, known := kinds[strings.TrimSuffix(scheme, "+tls")]
	if !ok || !known {
		return "", nil, fmt.Errorf("%q is not the URL of a store (write etcd://HOST:PORT, consul://HOST:PORT or zk://HOST:PORT)", hide(rawURL))
	}
	if strings.Contains(rest, "@") {
		return "", nil, fmt.Errorf("the URL %q of the store contains a user or password (give them in a file: processes can read each other's arguments)", hide(rawURL))
	}
	for host := range strings.SplitSeq(strings.TrimSuffix(rest, "/"), ",") {
		endpoint, err := endpoint(host, kind.port)
		if err != nil {
			return "", nil, fmt.Errorf("the URL %q of the store: %w", rawURL, err)
		}
		endpoints = append(endpoints, endpoint)
	}
	return scheme, endpoints, nil
}

// hide returns a URL without what may be a password.
func hide(rawURL string) string {
	if _, after, ok := strings.Cut(rawURL, "@"); ok {
		return "…@" + after
	}
	return rawURL
}

// endpoint returns host:port of an address with or without a port.
func endpoint(text string, port uint16) (string, error) {
	u, err := url.Parse("//" + text)
	if err != nil || u.Hostname() == "" || u.Path != "" || u.RawQuery != "" || u.Fragment != "" {
		return "", fmt.Errorf("%q is not HOST or HOST:PORT", text)
	}
	given := cmp.Or(u.Port(), strconv.Itoa(int(port)))
	if n, err := strconv.ParseUint(given, 10, 16); err != nil || n == 0 {
		return "", fmt.Errorf("%q is not a port", given)
	}
	return net.JoinHostPort(u.Hostname(), given), nil
}

// tls reads the files.
func (o Options) tls() (*tls.Config, error) {
	conf := &tls.Config{MinVersion: tls.VersionTLS12}
	if o.CACert != "" {
		pem, err := os.ReadFile(o.CACert)
		if err != nil {
			return nil, fmt.Errorf("read the CA: %w", err)
		}
		conf.RootCAs = x509.NewCertPool()
		if !conf.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("%s contains no certificate in PEM", o.CACert)
		}
	}
	if (o.Cert == "") != (o.Key == "") {
		return nil, errors.New("a certificate needs its key, and a key its certificate")
	}
	if o.Cert != "" {
		pair, err := tls.LoadX509KeyPair(o.Cert, o.Key)
		if err != nil {
			return nil, fmt.Errorf("read the certificate: %w", err)
		}
		conf.Certificates = []tls.Certificate{pair}
	}
	return conf, nil
}
