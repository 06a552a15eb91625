// SPDX-License-Identifier: Apache-2.0

// Command fairlead is the Fairlead daemon and its command line in one binary.
package main

import (
	"context"
	"os"
	"runtime"
)

// init keeps the main goroutine on the main thread, and every other goroutine off it. Only the others enter
// namespaces: /proc/PID/ns shows those of the main thread, by which tools identify the namespaces of the daemon and
// the processes in a sandbox.
func init() { runtime.LockOSThread() }

func main() {
	code := make(chan int)
	go func() { code <- execute(context.Background(), newEnv(), os.Args[1:]) }()
	os.Exit(<-code)
}
