// SPDX-License-Identifier: Apache-2.0

// Command fairlead is the Fairlead daemon and its command line in one binary.
package main

import (
	"context"
	"os"
	"runtime"
)

// init keeps the main goroutine on the main thread, and with that every other goroutine off it: only they enter
// namespaces. /proc/PID/ns shows the namespaces of the main thread, by which others identify the daemon's, and by
// which some kill what is in a sandbox.
func init() { runtime.LockOSThread() }

func main() {
	code := make(chan int)
	go func() { code <- execute(context.Background(), newEnv(), os.Args[1:]) }()
	os.Exit(<-code)
}
