// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause

// Package bpf holds the datapath: C programs for the kernel, and the Go
// bindings bpf2go generates from them. It contains no other Go code.
package bpf

// The flags are the contract of every object: warnings are errors, the
// instruction set is v3 (kernel 5.1), and bindings are little-endian only.
// The compiler comes from the Makefile (BPF2GO_CC).
//
//go:generate go tool bpf2go -go-package bpf -target bpfel -output-stem tc -type drop_reason -type fwd_path -type ct_event -type ct_state -type ct_flag -type ep_flag -type up_flag -type node_flag -type tunnel_flag -type direction -type service_flag -type subnet_flag TC tc.bpf.c -- -O2 -g -Wall -Wextra -Werror -Wshadow -mcpu=v3 -I. -I/usr/include/x86_64-linux-gnu
//go:generate go tool bpf2go -go-package bpf -target bpfel -output-stem sock Sock sock.bpf.c -- -O2 -g -Wall -Wextra -Werror -Wshadow -mcpu=v3 -I. -I/usr/include/x86_64-linux-gnu
//go:generate go tool bpf2go -go-package bpf -target bpfel -output-stem gc GC gc.bpf.c -- -O2 -g -Wall -Wextra -Werror -Wshadow -mcpu=v3 -I. -I/usr/include/x86_64-linux-gnu
