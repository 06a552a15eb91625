// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"archive/tar"
	"os"
)

// ImageCommand is the image's command for an engine, as a line of a Dockerfile.
const ImageCommand = `CMD ["/bin/busybox", "httpd", "-f", "-p", "0.0.0.0:80", "-h", "/www"]`

// WriteImage makes the root file system of an image, as an engine imports it. Its server
// answers every request with one line: the container's $NAME, the client's address and its
// port.
func (l *Lab) WriteImage(path string) {
	l.Helper()
	busybox, err := os.ReadFile("/bin/busybox") // from the package busybox-static
	l.must(err)
	file, err := os.Create(path)
	l.must(err)
	defer file.Close()
	tw := tar.NewWriter(file)
	for _, f := range []struct {
		header  tar.Header
		content []byte
	}{
		{tar.Header{Name: "bin/busybox", Mode: 0o755}, busybox},
		{tar.Header{Name: "bin/sh", Typeflag: tar.TypeSymlink, Linkname: "busybox"}, nil},
		{tar.Header{Name: "www/cgi-bin/index.cgi", Mode: 0o755}, []byte("#!/bin/sh\necho; echo $NAME $REMOTE_ADDR $REMOTE_PORT\n")},
	} {
		f.header.Size = int64(len(f.content))
		l.must(tw.WriteHeader(&f.header))
		_, err := tw.Write(f.content)
		l.must(err)
	}
	l.must(tw.Close())
}
