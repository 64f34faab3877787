package apply

import (
	"strings"

	"github.com/napitune/napitune/detect/knob"
)

// Privileges is what a process may do, as far as settings ask for it.
type Privileges struct {
	Root     bool // user ID 0
	NetAdmin bool // CAP_NET_ADMIN, effective
	// Override is CAP_DAC_OVERRIDE: files of root may be written by others.
	Override bool
}

// missing names what a write of this kind needs and the process lacks, "" if
// nothing. Files belong to root; queue and device attributes ask for
// CAP_NET_ADMIN besides (net/core/net-sysfs.c), interrupts do not
// (kernel/irq/proc.c). Either will do for net sysctls
// (net/sysctl_net.c, net_ctl_permissions). ethtool asks for the capability
// alone (net/ethtool/ioctl.c).
func (p *Privileges) missing(k *knob.Kind) string {
	if p == nil {
		return ""
	}
	var lacks []string
	file := p.Root || p.Override
	switch k.Stage {
	case knob.StageOwners:
		// irqbalance.c, sock_handle: by user ID.
		if !p.Root {
			lacks = append(lacks, "root")
		}
	case knob.StageSysctl:
		if !file && !p.NetAdmin {
			lacks = append(lacks, "root or CAP_NET_ADMIN")
		}
	case knob.StageAffinity, knob.StageNAPI, knob.StageSteering:
		if !file {
			lacks = append(lacks, "root or CAP_DAC_OVERRIDE")
		}
		if k.Stage != knob.StageAffinity && !p.NetAdmin {
			lacks = append(lacks, "CAP_NET_ADMIN")
		}
	default:
		if !p.NetAdmin {
			lacks = append(lacks, "CAP_NET_ADMIN")
		}
	}
	if len(lacks) == 0 {
		return ""
	}
	return "writing it needs " + strings.Join(lacks, " and ")
}
