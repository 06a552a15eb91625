// SPDX-License-Identifier: Apache-2.0

// Package engine talks to a Docker Engine, and starts one in a world.
package engine

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
)

// Client talks to a Docker Engine over its socket, in the engine's own version of the API, or
// to Fairlead, whose API has the same structure.
type Client struct {
	name string
	http http.Client
}

// New returns a Client of the engine at the socket. The name is used in errors.
func New(name, socket string) *Client {
	return &Client{name, http.Client{Transport: &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, "unix", socket)
		},
	}}}
}

// Close closes idle connections.
func (e *Client) Close() { e.http.CloseIdleConnections() }

// do sends a request. The caller closes the response body.
func (e *Client) do(ctx context.Context, method, path, contentType string, body io.Reader) (io.ReadCloser, error) {
	req, err := http.NewRequestWithContext(ctx, method, "http://engine"+path, body)
	if err != nil {
		return nil, err
	}
	req.Header.Set("Content-Type", contentType)
	resp, err := e.http.Do(req)
	if err != nil {
		return nil, fmt.Errorf("ask %s: %w", e.name, err)
	}
	if resp.StatusCode >= 400 {
		defer resp.Body.Close()
		text, _ := io.ReadAll(resp.Body) // the status alone is enough
		return nil, fmt.Errorf("%s %s %s: %s: %s", e.name, method, path, resp.Status, bytes.TrimSpace(text))
	}
	return resp.Body, nil
}

// Call sends in as JSON, and decodes the response into out unless that is nil.
func (e *Client) Call(ctx context.Context, method, path string, in, out any) error {
	body, err := json.Marshal(in)
	if err != nil {
		return fmt.Errorf("encode request: %w", err)
	}
	answer, err := e.do(ctx, method, path, "application/json", bytes.NewReader(body))
	if err != nil {
		return err
	}
	defer answer.Close()
	if out == nil {
		_, err = io.Copy(io.Discard, answer)
		return err
	}
	return json.NewDecoder(answer).Decode(out)
}

// ImportImage makes an image that holds files, at the paths they have here, and what is
// needed to be root there.
func (e *Client) ImportImage(ctx context.Context, name string, files []string) error {
	var rootfs bytes.Buffer
	tw := tar.NewWriter(&rootfs)
	add := func(path string, content []byte) error {
		h := &tar.Header{Name: strings.TrimPrefix(path, "/"), Mode: 0o755, Size: int64(len(content))}
		if err := tw.WriteHeader(h); err != nil {
			return fmt.Errorf("write image: %w", err)
		}
		_, err := tw.Write(content)
		return err
	}
	for _, path := range files {
		content, err := os.ReadFile(path)
		if err != nil {
			return fmt.Errorf("read file of the image: %w", err)
		}
		if err := add(path, content); err != nil {
			return err
		}
	}
	err := errors.Join(add("/etc/passwd", []byte("root:x:0:0::/:/bin/false\n")), add("/etc/group", []byte("root:x:0:\n")), tw.Close())
	if err != nil {
		return fmt.Errorf("write image: %w", err)
	}
	answer, err := e.do(ctx, http.MethodPost, "/images/create?fromSrc=-&repo="+name, "application/x-tar", &rootfs)
	if err != nil {
		return err
	}
	defer answer.Close()
	progress, err := io.ReadAll(answer)
	if err == nil && bytes.Contains(progress, []byte(`"error"`)) {
		err = fmt.Errorf("docker import: %s", bytes.TrimSpace(progress))
	}
	return err
}

// Exec runs a program in a container to its end and returns what it wrote to
// stdout.
func (e *Client) Exec(ctx context.Context, container string, args []string) (string, error) {
	var made struct {
		ID string `json:"Id"`
	}
	err := e.Call(ctx, http.MethodPost, "/containers/"+container+"/exec", map[string]any{
		"AttachStdout": true, "AttachStderr": true, "Cmd": args,
	}, &made)
	if err != nil {
		return "", err
	}
	answer, err := e.do(ctx, http.MethodPost, "/exec/"+made.ID+"/start", "application/json", strings.NewReader("{}"))
	if err != nil {
		return "", err
	}
	defer answer.Close()
	stdout, stderr, err := demultiplex(answer)
	if err != nil {
		return "", fmt.Errorf("read output of %s: %w", args[0], err)
	}
	var state struct{ ExitCode int }
	if err := e.Call(ctx, http.MethodGet, "/exec/"+made.ID+"/json", nil, &state); err != nil {
		return "", err
	}
	if state.ExitCode != 0 {
		return "", fmt.Errorf("%s in %s ended with status %d: %s", strings.Join(args, " "), container, state.ExitCode, strings.TrimSpace(stdout+stderr))
	}
	return stdout, nil
}

// demultiplex splits the frames that the engine sends: the stream (stdout or stderr), three
// zero bytes, the length, the data.
func demultiplex(r io.Reader) (stdout, stderr string, err error) {
	var out [2]strings.Builder
	for {
		var head [8]byte
		switch _, err := io.ReadFull(r, head[:]); {
		case errors.Is(err, io.EOF):
			return out[0].String(), out[1].String(), nil
		case err != nil:
			return "", "", err
		case head[0] != 1 && head[0] != 2:
			return "", "", fmt.Errorf("unknown stream %d", head[0])
		}
		if _, err := io.CopyN(&out[head[0]-1], r, int64(binary.BigEndian.Uint32(head[4:]))); err != nil {
			return "", "", err
		}
	}
}

// CreateNetwork makes a network of a driver with options. The request is the same for Docker
// and Fairlead, as are those below.
func (e *Client) CreateNetwork(ctx context.Context, driver string, options map[string]string, name string, subnets ...string) error {
	var config []map[string]string
	for _, s := range subnets {
		config = append(config, map[string]string{"Subnet": s})
	}
	return e.Call(ctx, http.MethodPost, "/networks/create", map[string]any{
		"Name": name, "Driver": driver, "Options": options, "EnableIPv6": true, "IPAM": map[string]any{"Config": config},
	}, nil)
}

// Connect joins a container to a network.
func (e *Client) Connect(ctx context.Context, network, container string) error {
	return e.Call(ctx, http.MethodPost, "/networks/"+network+"/connect", map[string]any{"Container": container}, nil)
}

// Disconnect removes a container from a network.
func (e *Client) Disconnect(ctx context.Context, network, container string) error {
	return e.Call(ctx, http.MethodPost, "/networks/"+network+"/disconnect", map[string]any{"Container": container}, nil)
}
