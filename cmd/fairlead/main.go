// SPDX-License-Identifier: Apache-2.0

// Command fairlead is the Fairlead daemon and its command line in one binary.
package main

import (
	"context"
	"os"
)

func main() {
	os.Exit(execute(context.Background(), newEnv(), os.Args[1:]))
}
