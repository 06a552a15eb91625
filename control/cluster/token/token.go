// SPDX-License-Identifier: Apache-2.0

// Package token is the secret by which the hosts of a cluster trust the embedded store, and the
// store trusts them. The key of a certificate authority is derived from it, so that every host
// that has the token makes certificates for itself, and recognises those of the others, without a
// protocol for joining: one copy of one line is all that an operator moves.
package token

import (
	"crypto"
	"crypto/ed25519"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"os"
	"strings"
	"time"
)

// Token is the secret of a cluster. The zero Token is not one.
type Token struct{ seed [32]byte }

// version begins a token's text, and changes when certificates are derived differently.
const version = "fairlead1-"

// checkLen is how many bytes of a checksum tell a token from a part of one.
const checkLen = 4

// New returns a token that nobody has.
func New() Token {
	var t Token
	_, _ = rand.Read(t.seed[:]) // never fails
	return t
}

// IsZero reports whether this is not a token.
func (t Token) IsZero() bool { return t == Token{} }

// String returns the token's name in logs, which does not reveal it. See [Token.Text].
func (t Token) String() string { return "(join token)" }

// GoString is as String.
func (t Token) GoString() string { return t.String() }

// Text returns the token as Parse reads it.
func (t Token) Text() string {
	sum := sha256.Sum256(t.seed[:])
	return version + base64.RawURLEncoding.EncodeToString(append(t.seed[:], sum[:checkLen]...))
}

// Parse reads a token. Its errors do not contain the text.
func Parse(text string) (Token, error) {
	encoded, ok := strings.CutPrefix(strings.TrimSpace(text), version)
	raw, err := base64.RawURLEncoding.DecodeString(encoded)
	var t Token
	if !ok || err != nil || len(raw) != len(t.seed)+checkLen {
		return Token{}, errors.New("this is not a join token (copy all of what `fairlead cluster token` prints)")
	}
	copy(t.seed[:], raw)
	if t.IsZero() || t.Text() != version+encoded {
		return Token{}, errors.New("the join token has a typing error (copy all of what `fairlead cluster token` prints)")
	}
	return t, nil
}

// Read reads a token from a file.
func Read(path string) (Token, error) {
	if strings.HasPrefix(path, version) {
		return Token{}, errors.New("--store-token takes the name of a file, not the join token itself, which other processes could read (write the token to a file)")
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return Token{}, fmt.Errorf("read the join token of --store-token: %w", err)
	}
	t, err := Parse(string(text))
	if err != nil {
		return Token{}, fmt.Errorf("%s: %w", path, err)
	}
	return t, nil
}

// Ensure reads a token from a file, which it creates with a new one if there is none. Only the
// file's owner can read it.
func Ensure(path string) (Token, error) {
	t, err := Read(path)
	if !errors.Is(err, fs.ErrNotExist) {
		return t, err
	}
	t = New()
	// Complete or absent: half a token would be refused at each start.
	half := path + ".half"
	if err := os.WriteFile(half, []byte(t.Text()+"\n"), 0o600); err != nil {
		return Token{}, fmt.Errorf("write the join token: %w", err)
	}
	if err := os.Rename(half, path); err != nil {
		return Token{}, fmt.Errorf("write the join token: %w", err)
	}
	return t, nil
}

// serverName is the name in the store's certificate. It says what the certificate is for; the
// address by which a client reaches the store may be any.
const serverName = "store.fairlead.internal"

// Certificates do not expire by the clock, which may be wrong on a host that has just booted: they
// end with the token.
var (
	validFrom  = time.Date(2020, 1, 1, 0, 0, 0, 0, time.UTC)
	validUntil = time.Date(2120, 1, 1, 0, 0, 0, 0, time.UTC)
)

// authority returns the cluster's certificate authority. It is the same on all hosts, byte for byte.
func (t Token) authority() (*x509.Certificate, crypto.Signer, error) {
	if t.IsZero() {
		return nil, nil, errors.New("no join token")
	}
	seed, err := hkdf.Key(sha256.New, t.seed[:], nil, "fairlead cluster authority 1", ed25519.SeedSize)
	if err != nil {
		return nil, nil, fmt.Errorf("derive the cluster's key: %w", err)
	}
	key := ed25519.NewKeyFromSeed(seed)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "fairlead cluster"}, NotBefore: validFrom, NotAfter: validUntil,
		IsCA: true, BasicConstraintsValid: true, MaxPathLenZero: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(nil, template, template, key.Public(), key) // Ed25519 needs no randomness
	if err != nil {
		return nil, nil, fmt.Errorf("make the cluster's certificate: %w", err)
	}
	cert, err := x509.ParseCertificate(der)
	return cert, key, err
}

// issue returns a new certificate for a purpose, with its key.
func (t Token) issue(usage x509.ExtKeyUsage, name string) (tls.Certificate, *x509.Certificate, error) {
	ca, signer, err := t.authority()
	if err != nil {
		return tls.Certificate{}, nil, err
	}
	public, key, err := ed25519.GenerateKey(nil)
	if err != nil {
		return tls.Certificate{}, nil, fmt.Errorf("make a key: %w", err)
	}
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	if err != nil {
		return tls.Certificate{}, nil, fmt.Errorf("make a serial number: %w", err)
	}
	template := &x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{CommonName: name}, NotBefore: validFrom, NotAfter: validUntil,
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{usage},
	}
	if usage == x509.ExtKeyUsageServerAuth {
		template.DNSNames = []string{name}
	}
	der, err := x509.CreateCertificate(rand.Reader, template, ca, public, signer)
	if err != nil {
		return tls.Certificate{}, nil, fmt.Errorf("make a certificate: %w", err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, ca, nil
}

// Client returns how a host of the cluster connects to its store.
func (t Token) Client() (*tls.Config, error) {
	cert, ca, err := t.issue(x509.ExtKeyUsageClientAuth, "fairlead node")
	if err != nil {
		return nil, err
	}
	pool := x509.NewCertPool()
	pool.AddCert(ca)
	return &tls.Config{
		MinVersion:   tls.VersionTLS13,
		Certificates: []tls.Certificate{cert},
		// gRPC would compare the certificate with the address, whatever ServerName says.
		InsecureSkipVerify: true,
		VerifyConnection: func(state tls.ConnectionState) error {
			_, err := state.PeerCertificates[0].Verify(x509.VerifyOptions{Roots: pool, DNSName: serverName})
			return err
		},
	}, nil
}

// Files are the certificates of a server, for one that reads them from files.
type Files struct{ CA, Cert, Key string }

// Server writes a new certificate for the store to files in a directory, which only its owner
// can read.
func (t Token) Server(dir string) (Files, error) {
	cert, ca, err := t.issue(x509.ExtKeyUsageServerAuth, serverName)
	if err != nil {
		return Files{}, err
	}
	key, err := x509.MarshalPKCS8PrivateKey(cert.PrivateKey)
	if err != nil {
		return Files{}, fmt.Errorf("encode the store's key: %w", err)
	}
	f := Files{CA: dir + "/ca.pem", Cert: dir + "/store.pem", Key: dir + "/store-key.pem"}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return Files{}, fmt.Errorf("write the store's certificate: %w", err)
	}
	for _, file := range []struct {
		path  string
		block pem.Block
	}{
		{f.CA, pem.Block{Type: "CERTIFICATE", Bytes: ca.Raw}},
		{f.Cert, pem.Block{Type: "CERTIFICATE", Bytes: cert.Certificate[0]}},
		{f.Key, pem.Block{Type: "PRIVATE KEY", Bytes: key}},
	} {
		if err := os.WriteFile(file.path, pem.EncodeToMemory(&file.block), 0o600); err != nil {
			return Files{}, fmt.Errorf("write the store's certificate: %w", err)
		}
	}
	return f, nil
}
