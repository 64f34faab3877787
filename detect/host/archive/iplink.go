package archive

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/napitune/napitune/detect/host"
)

// linkKinds are the values of IFLA_INFO_KIND that iproute2 prints as the first
// word of a detail line (ip/iplink_*.c of iproute2).
var linkKinds = map[string]bool{
	"bond": true, "bridge": true, "vlan": true, "vxlan": true, "veth": true, "macvlan": true, "macvtap": true,
	"ipvlan": true, "ipvtap": true, "team": true, "tun": true, "dummy": true, "ifb": true, "vrf": true,
	"gre": true, "gretap": true, "ip6gre": true, "ip6gretap": true, "erspan": true, "ip6erspan": true, "ipip": true, "sit": true,
	"ip6tnl": true, "vti": true, "vti6": true, "xfrm": true, "geneve": true, "wireguard": true,
	"openvswitch": true, "ipoib": true, "hsr": true, "macsec": true, "bareudp": true, "gtp": true,
	"netdevsim": true, "netkit": true, "nlmon": true, "batadv": true, "vcan": true, "can": true, "rmnet": true,
}

// parseLinks reads the output of "ip -d link" and "ip -s -d link". Master and
// parent become interface numbers; a peer in another namespace is Foreign.
func parseLinks(text string) ([]host.Link, error) {
	p := linkParser{index: map[string]int{}}
	for line := range strings.Lines(text) {
		if line[0] == ' ' || line[0] == '\t' {
			p.detail(strings.Fields(line))
			continue
		}
		if err := p.headline(strings.TrimSpace(line)); err != nil {
			return nil, err
		}
	}
	if len(p.links) == 0 {
		return nil, textError(text)
	}
	for i := range p.links {
		p.resolve(&p.links[i], p.names[i])
	}
	return p.links, nil
}

type linkParser struct {
	links []host.Link
	names []linkNames
	index map[string]int
}

// linkNames are references by name, which may point forward.
type linkNames struct{ master, parent string }

// headline reads "2: eth0@if5: <UP,LOWER_UP> mtu 1500 … master br0 state UP".
func (p *linkParser) headline(line string) error {
	number, rest, ok := strings.Cut(line, ": ")
	index, err := strconv.ParseInt(number, 10, 32)
	if !ok || err != nil || index <= 0 {
		return nil // a warning between the devices
	}
	name, rest, ok := strings.Cut(rest, ": <")
	flags, rest, closed := strings.Cut(rest, ">")
	if !ok || !closed {
		return fmt.Errorf("line %q: no flags: %w", shorten(line), host.ErrInconclusive)
	}
	name, parent, _ := strings.Cut(name, "@")
	set := strings.Split(flags, ",")
	link := host.Link{
		Name: name, Index: int(index), Up: slices.Contains(set, "UP"), Loopback: slices.Contains(set, "LOOPBACK"),
		Running: slices.Contains(set, "LOWER_UP") && !slices.Contains(set, "NO-CARRIER"),
	}
	names := linkNames{parent: parent}
	fields := strings.Fields(rest)
	for i, field := range fields {
		if strings.HasPrefix(field, "xdp") {
			link.XDP = true
		}
		if i == 0 {
			continue
		}
		switch fields[i-1] {
		case "mtu":
			link.MTU = count(field)
		case "master":
			names.master = field
		case "qdisc":
			link.Qdisc = field
		}
	}
	p.index[name] = link.Index
	p.links, p.names = append(p.links, link), append(p.names, names)
	return nil
}

// detail reads one indented line of the last device.
func (p *linkParser) detail(fields []string) {
	if len(p.links) == 0 || len(fields) == 0 {
		return
	}
	link := &p.links[len(p.links)-1]
	if linkKinds[fields[0]] && link.Kind == "" {
		link.Kind = fields[0]
	}
	if strings.HasPrefix(fields[0], "prog/xdp") {
		link.XDP = true
	}
	for i := 1; i < len(fields); i++ {
		switch fields[i-1] {
		case "numtxqueues":
			link.TxQueues = count(fields[i])
		case "numrxqueues":
			link.RxQueues = count(fields[i])
		case "link-netnsid":
			link.Foreign = true
		}
	}
}

func (p *linkParser) resolve(link *host.Link, names linkNames) {
	link.Master = p.index[names.master]
	link.Parent = p.index[names.parent]
	if number, ok := strings.CutPrefix(names.parent, "if"); ok && link.Parent == 0 {
		link.Parent = count(number)
		link.Foreign = link.Foreign || link.Parent != 0
	}
}

// count reads a number that cannot be negative; 0 if it is none.
func count(text string) int {
	n, err := strconv.ParseUint(text, 10, 31)
	if err != nil {
		return 0
	}
	return int(n)
}
