// SPDX-License-Identifier: Apache-2.0

// Command guest runs in the guests of the kernel matrix: as their init it prepares the
// machine, as its own child it tests Fairlead there, and in sandboxes it is the server and
// the client. See test/kernels.
package main

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"runtime"
	"runtime/debug"
	"time"

	"golang.org/x/sys/unix"

	"github.com/fairlead-net/fairlead/bench/vm/guest"
)

func main() {
	var err error
	switch {
	case os.Getpid() == 1:
		guest.Boot(os.Args[1:]) // does not return
	case len(os.Args) == 3 && os.Args[1] == "serve":
		err = serve(os.Args[2])
	case len(os.Args) == 4 && os.Args[1] == "ask":
		var answer string
		if answer, err = ask(os.Args[2], os.Args[3]); err == nil {
			fmt.Println(answer)
		}
	default:
		err = drive(os.Args[1:])
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "guest:", err)
		os.Exit(1)
	}
}

// memoryLimit is when a program begins to collect garbage, in bytes.
const memoryLimit = 128 << 20

// drive runs all tests and reports each on standard output.
func drive(args []string) error {
	flags := flag.NewFlagSet("guest", flag.ContinueOnError)
	tcx := flags.Bool("tcx", false, "this kernel has tcx, and Fairlead must know")
	controls := flags.Bool("controls", false, "run the controls, without Fairlead, and nothing else")
	tests := flags.String("tests", "", "run the tests of the program tests that match, instead")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if *tests != "" {
		return unix.Exec("/bin/tests", []string{"tests", "-test.v", "-test.run", *tests}, os.Environ())
	}
	// What the programs allocate fits into the machine's memory, nearly all of it before they collect garbage, which
	// takes long in an emulator.
	debug.SetGCPercent(-1)
	debug.SetMemoryLimit(memoryLimit)
	for name, value := range map[string]string{"GOGC": "off", "GOMEMLIMIT": fmt.Sprint(memoryLimit)} {
		if err := os.Setenv(name, value); err != nil {
			return err
		}
	}
	// The main thread must not be one that keeps a network namespace alive.
	runtime.LockOSThread()
	r := &report{w: os.Stdout, began: time.Now()}
	if *controls {
		runControls(r)
		return r.result()
	}
	r.step("verifier", func() error { return verifyAll(r, false) })
	r.step("doctor", func() error { return checkDoctor(r, *tcx) })
	r.step("conntrack", func() error {
		if err := checkConntrack("Optional, missing"); err != nil {
			return err
		}
		if err := guest.LoadModules("/netfilter"); err != nil {
			return err
		}
		return errors.Join(checkConntrack("Available"), verifyAll(r, true))
	})
	r.step("devices", func() error { return guest.LoadModules("/uplinks") })
	scenario(r, *tcx)
	return r.result()
}
