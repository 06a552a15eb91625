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

// programFlags are how a program is run, by run and exec: docker's flags. The program has
// this process's input, output and terminal anyway.
type programFlags struct {
	interactive, tty bool
	env              []string
	dir, user        string
}

func (o *programFlags) register(cmd *cobra.Command) {
	f := cmd.Flags()
	f.BoolVarP(&o.interactive, "interactive", "i", false, "no effect: the program has this process's input")
	f.BoolVarP(&o.tty, "tty", "t", false, "refuse to run without a terminal, which the program has if this process has one")
	f.StringArrayVarP(&o.env, "env", "e", nil, "set a variable, KEY=VALUE, beside those of this process; KEY alone passes on its own")
	f.StringVarP(&o.dir, "workdir", "w", "", "directory that the program is run in (default: this one)")
	f.StringVarP(&o.user, "user", "u", "", "user that the program is run as, NAME|UID[:GROUP|GID] (default: this one)")
}

// command prepares a program as the flags say.
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
			continue // it is there, or it is not
		}
		variables = append(variables, v)
	}
	if o.user != "" || len(o.env) > 0 {
		cmd.Env = variables // the last of a name counts
	}
	return cmd, nil
}

func isTerminal(f *os.File) bool {
	_, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS)
	return err == nil
}

// credential looks a user and a group up; numbers need not be known.
func credential(text string) (c *syscall.Credential, home string, err error) {
	name, groupName, hasGroup := strings.Cut(text, ":")
	c, home = &syscall.Credential{}, "/"
	known, err := user.Lookup(name)
	if err != nil {
		known, err = user.LookupId(name)
	}
	if err == nil {
		home = known.HomeDir
		name, err = known.Uid, addGroups(c, known)
	} else if unknown := user.UnknownUserIdError(0); errors.As(err, &unknown) {
		err = nil
	}
	if err != nil {
		return nil, "", fmt.Errorf("--user %q: no such user: %w", text, err)
	}
	if c.Uid, err = number(name); err != nil {
		return nil, "", fmt.Errorf("--user %q: no such user", text)
	}
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
