// SPDX-License-Identifier: Apache-2.0

// Package netfilter reads the host's firewall rules that Fairlead bypasses, and exempts devices of
// sandboxes from connection tracking.
package netfilter

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// BypassedRules returns the chains of the calling thread's network namespace that have rules and
// never see packets that Fairlead forwards: chains at the hooks forward and prerouting, netdev
// chains, and Docker's DOCKER-USER. NAT rules are excluded, since they apply to addresses that
// are not Fairlead's.
func BypassedRules() (chains []string, err error) {
	c, err := nftables.New()
	if errors.Is(err, unix.EPROTONOSUPPORT) {
		return legacyTables(), nil // the kernel has no nfnetlink
	}
	if err != nil {
		return nil, fmt.Errorf("list netfilter chains: %w", err)
	}
	all, err := c.ListChains()
	if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.EPROTONOSUPPORT) || errors.Is(err, unix.EOPNOTSUPP) {
		return legacyTables(), nil // the kernel has no nf_tables
	}
	if err != nil {
		return nil, fmt.Errorf("list netfilter chains: %w", err)
	}
	for _, chain := range all {
		if !bypassed(chain) {
			continue
		}
		rules, err := c.GetRules(chain.Table, chain)
		if err != nil {
			return nil, fmt.Errorf("list the rules of chain %s: %w", chain.Name, err)
		}
		drops := chain.Policy != nil && *chain.Policy == nftables.ChainPolicyDrop
		if n := countEffective(rules); n > 0 || drops {
			chains = append(chains, fmt.Sprintf("nft table %s %s, chain %s", familyName(chain.Table.Family), chain.Table.Name, chain.Name))
		}
	}
	return append(chains, legacyTables()...), nil
}

func bypassed(chain *nftables.Chain) bool {
	if chain.Name == "DOCKER-USER" {
		return true
	}
	if chain.Hooknum == nil || chain.Type == nftables.ChainTypeNAT || chain.Table.Name == untrackTable {
		return false
	}
	switch chain.Table.Family {
	case nftables.TableFamilyNetdev:
		return true
	case nftables.TableFamilyIPv4, nftables.TableFamilyIPv6, nftables.TableFamilyINet:
		return *chain.Hooknum == *nftables.ChainHookForward || *chain.Hooknum == *nftables.ChainHookPrerouting
	}
	return false
}

// countEffective counts the rules that do more than return, as the default rule of DOCKER-USER
// does.
func countEffective(rules []*nftables.Rule) (n int) {
	for _, r := range rules {
		for _, e := range r.Exprs {
			if v, ok := e.(*expr.Verdict); ok && v.Kind == expr.VerdictReturn {
				continue
			}
			if _, ok := e.(*expr.Counter); !ok {
				n++
				break
			}
		}
	}
	return n
}

func familyName(f nftables.TableFamily) string {
	return map[nftables.TableFamily]string{
		nftables.TableFamilyIPv4: "ip", nftables.TableFamilyIPv6: "ip6",
		nftables.TableFamilyINet: "inet", nftables.TableFamilyNetdev: "netdev",
	}[f]
}

// legacyTables returns the tables of iptables-legacy. Only iptables can read their rules.
func legacyTables() (tables []string) {
	for file, command := range map[string]string{"ip_tables_names": "iptables-legacy", "ip6_tables_names": "ip6tables-legacy"} {
		b, err := os.ReadFile("/proc/thread-self/net/" + file)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		for table := range strings.FieldsSeq(string(b)) {
			if table == "filter" || table == "raw" || table == "mangle" {
				tables = append(tables, fmt.Sprintf("table %s of %s (see: %s-save -t %s)", table, command, command, table))
			}
		}
	}
	return tables
}
