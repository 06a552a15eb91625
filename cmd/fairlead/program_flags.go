// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"
)

// programFlags are Docker's flags for running a program, shared by run and exec. The program
// always has this process's input, output and terminal.
type programFlags struct {
	interactive, tty bool
	env              []string
	dir, user        string
}

func (o *programFlags) register(cmd *cobra.Command) {
	f := cmd.Flags()
	f.BoolVarP(&o.interactive, "interactive", "i", false, "no effect: the program always has this process's input")
	f.BoolVarP(&o.tty, "tty", "t", false, "require a terminal; the program shares that of this process")
	f.StringArrayVarP(&o.env, "env", "e", nil, "set a variable, KEY=VALUE, in addition to those of this process; KEY alone keeps its value")
	f.StringVarP(&o.dir, "workdir", "w", "", "working directory of the program (default: the current one)")
	f.StringVarP(&o.user, "user", "u", "", "user to run the program as, NAME|UID[:GROUP|GID] (default: the current one)")
}

// command prepares a program according to the flags.
func (o *programFlags) command(e *env, args []string) (*exec.Cmd, error) {
	if file, ok := e.stdin.(*os.File); o.tty && (!ok || !isTerminal(file)) {
		return nil, usagef("the input is not a terminal (leave --tty out)")
	}
	name := args[0]
	if o.dir != "" {
		if info, err := os.Stat(o.dir); !filepath.IsAbs(o.dir) || err != nil || !info.IsDir() {
			return nil, usagef("--workdir %q is not the absolute path of a directory", o.dir)
		}
		if strings.Contains(name, "/") && !filepath.IsAbs(name) {
			name = filepath.Join(o.dir, name)
		}
	}
	path, err := findProgram(name, e.getenv("PATH"))
	if err != nil {
		return nil, err
	}
	if path, err = filepath.Abs(path); err != nil {
		return nil, err
	}
	cmd := &exec.Cmd{Path: path, Args: args, Dir: o.dir, SysProcAttr: &syscall.SysProcAttr{}}
	variables := os.Environ()
	if o.user != "" {
		cred, home, err := credential(o.user)
		if err != nil {
			return nil, usageError{err}
		}
		cmd.SysProcAttr.Credential = cred
		variables = append(variables, "HOME="+home)
	}
	for _, v := range o.env {
		key, _, set := strings.Cut(v, "=")
		if key == "" {
			return nil, usagef("--env %q has no name", v)
		}
		if !set {
			continue // already in the environment, if set at all
		}
		variables = append(variables, v)
	}
	if o.user != "" || len(o.env) > 0 {
		cmd.Env = variables // the last value of a name wins
	}
	return cmd, nil
}

func isTerminal(f *os.File) bool {
	_, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS)
	return err == nil
}

// credential looks up a user and a group. Numeric IDs need not exist.
func credential(text string) (c *syscall.Credential, home string, err error) {
	name, groupName, hasGroup := strings.Cut(text, ":")
	c, home = &syscall.Credential{}, "/"
	known, err := user.Lookup(name)
	id, numeric := number(name)
	if err != nil && numeric == nil {
		known, err = user.LookupId(name)
	}
	unknownName, unknownID := user.UnknownUserError(""), user.UnknownUserIdError(0)
	switch {
	case err == nil:
		home = known.HomeDir
		if id, err = number(known.Uid); err == nil {
			err = addGroups(c, known)
		}
		if err != nil {
			return nil, "", fmt.Errorf("--user %q: %w", text, err)
		}
	case errors.As(err, &unknownID): // a number that no user has
	case errors.As(err, &unknownName):
		return nil, "", fmt.Errorf("--user %q: no such user (give a name, or a number from 0 to 4294967295)", text)
	default:
		return nil, "", fmt.Errorf("--user %q: look up the user: %w", text, err)
	}
	c.Uid = id
	if !hasGroup {
		return c, home, nil
	}
	if group, err := user.LookupGroup(groupName); err == nil {
		groupName = group.Gid
	}
	if c.Gid, err = number(groupName); err != nil {
		return nil, "", fmt.Errorf("--user %q: no such group", text)
	}
	c.Groups = nil
	return c, home, nil
}

func addGroups(c *syscall.Credential, u *user.User) (err error) {
	if c.Gid, err = number(u.Gid); err != nil {
		return err
	}
	ids, err := u.GroupIds()
	for _, id := range ids {
		if gid, err := number(id); err == nil && !slices.Contains(c.Groups, gid) {
			c.Groups = append(c.Groups, gid)
		}
	}
	return err
}

func number(text string) (uint32, error) {
	n, err := strconv.ParseUint(text, 10, 32)
	return uint32(n), err
}
