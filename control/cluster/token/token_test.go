// SPDX-License-Identifier: Apache-2.0

package token_test

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/fairlead-net/fairlead/control/cluster/token"
)

func TestText(t *testing.T) {
	made := token.New()
	text := made.Text()
	for _, spelled := range []string{text, text + "\n", "  " + text + " "} {
		if read, err := token.Parse(spelled); err != nil || read != made {
			t.Errorf("parse %q: %v", spelled, err)
		}
	}
	changed := []byte(text)
	changed[len(changed)/2] ^= 1
	for _, wrong := range []string{"", "fairlead1-", text[1:], text[:len(text)-1], text + "A", strings.ToUpper(text), string(changed), "fairlead2" + text[9:]} {
		if _, err := token.Parse(wrong); err == nil || strings.Contains(err.Error(), text[12:20]) {
			t.Errorf("parse %q: %v", wrong, err)
		}
	}
	for _, format := range []string{"%v", "%+v", "%#v", "%s", "%q"} {
		if shown := fmt.Sprintf(format, struct{ T token.Token }{made}); strings.Contains(text, shown[:min(8, len(shown))]) || len(shown) > 60 {
			t.Errorf("%s shows %s", format, shown)
		}
	}
}

func TestFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "token")
	if _, err := token.Read(path); err == nil {
		t.Error("read a file that does not exist")
	}
	if _, err := token.Read(token.New().Text()); err == nil || strings.Contains(err.Error(), "fairlead1-") {
		t.Errorf("a token instead of a file's name: %v", err)
	}
	made, err := token.Ensure(path)
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if again, err := token.Ensure(path); err != nil || again != made {
			t.Errorf("the second start has another token: %v", err)
		}
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode of the token's file: %v, %v", info.Mode(), err)
	}
	if err := os.WriteFile(path, []byte("garbage"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := token.Ensure(path); err == nil {
		t.Error("a damaged token was replaced, which would cut off all other hosts")
	}
}

// handshake returns what client and server make of each other.
func handshake(t *testing.T, server token.Token, client *tls.Config) (clientErr, serverErr error) {
	t.Helper()
	files, err := server.Server(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	cert, err := tls.LoadX509KeyPair(files.Cert, files.Key)
	if err != nil {
		t.Fatal(err)
	}
	ca, err := os.ReadFile(files.CA)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(ca)
	l, err := net.Listen("unix", filepath.Join(t.TempDir(), "socket"))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	done := make(chan error, 1)
	go func() {
		b, err := l.Accept()
		if err != nil {
			done <- err
			return
		}
		defer b.Close()
		conn := tls.Server(b, &tls.Config{Certificates: []tls.Certificate{cert}, ClientCAs: pool, ClientAuth: tls.RequireAndVerifyClientCert})
		if err = conn.Handshake(); err == nil {
			_, err = conn.Write([]byte("hello"))
		}
		done <- err
	}()
	a, err := net.Dial("unix", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	// With TLS 1.3, a client learns that its certificate was refused when it reads.
	_, clientErr = tls.Client(a, client).Read(make([]byte, 5))
	a.Close()
	return clientErr, <-done
}

// Two hosts that share a token trust each other; all others are refused, by both sides.
func TestTrust(t *testing.T) {
	ours, theirs := token.New(), token.New()
	mine, err := ours.Client()
	if err != nil {
		t.Fatal(err)
	}
	if c, s := handshake(t, ours, mine); c != nil || s != nil {
		t.Errorf("a host with the token: %v, %v", c, s)
	}
	if c, s := handshake(t, theirs, mine); c == nil || s == nil {
		t.Errorf("a store of another cluster: %v, %v", c, s)
	}
	foreign, err := theirs.Client()
	if err != nil {
		t.Fatal(err)
	}
	foreign.VerifyConnection = nil
	if _, s := handshake(t, ours, foreign); s == nil {
		t.Error("a host with another token was let in")
	}
	bare := mine.Clone()
	bare.Certificates = nil
	if _, s := handshake(t, ours, bare); s == nil {
		t.Error("a host without a certificate was let in")
	}
	// A node's certificate is not a store's.
	if files, err := ours.Server(t.TempDir()); err != nil {
		t.Error(err)
	} else if cert, err := tls.LoadX509KeyPair(files.Cert, files.Key); err != nil || mine.VerifyConnection(tls.ConnectionState{PeerCertificates: []*x509.Certificate{cert.Leaf}}) != nil {
		t.Errorf("the store's certificate: %v", err)
	}
	if leaf, err := x509.ParseCertificate(mine.Certificates[0].Certificate[0]); err != nil || mine.VerifyConnection(tls.ConnectionState{PeerCertificates: []*x509.Certificate{leaf}}) == nil {
		t.Errorf("a node's certificate is good for a store: %v", err)
	}
	if _, err := (token.Token{}).Client(); err == nil {
		t.Error("a certificate without a token")
	}
}
