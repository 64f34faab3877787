package report

import (
	"cmp"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/napitune/napitune/detect/cpuset"
	"github.com/napitune/napitune/rules/plan"
)

// File is a configuration file with the place where it takes effect.
type File struct {
	Path string
	Text string
}

// linkKey is a key of systemd.link(5), section [Link].
type linkKey struct {
	name  string
	since int // systemd version
	// form turns the value of a setting into that of the key.
	form func(value string) (string, bool)
}

// linkKeys maps settings to keys (systemd.link(5), where the versions are from).
var linkKeys = map[string]linkKey{
	"channels.combined":        {"CombinedChannels", 239, positive},
	"channels.rx":              {"RxChannels", 239, positive},
	"channels.tx":              {"TxChannels", 239, positive},
	"ring.rx":                  {"RxBufferSize", 244, positive},
	"ring.tx":                  {"TxBufferSize", 244, positive},
	"feature.rx-gro":           {"GenericReceiveOffload", 232, yesNo},
	"feature.rx-lro":           {"LargeReceiveOffload", 232, yesNo},
	"feature.rx-gro-hw":        {"GenericReceiveOffloadHardware", 250, yesNo},
	"feature.rx-ntuple-filter": {"NTupleFilter", 250, yesNo},
	"coalesce.adaptive-rx":     {"UseAdaptiveRxCoalesce", 250, yesNo},
	"coalesce.adaptive-tx":     {"UseAdaptiveTxCoalesce", 250, yesNo},
	"coalesce.rx-usecs":        {"RxCoalesceSec", 250, microseconds},
	"coalesce.tx-usecs":        {"TxCoalesceSec", 250, microseconds},
	"coalesce.rx-frames":       {"RxMaxCoalescedFrames", 250, natural},
	"coalesce.tx-frames":       {"TxMaxCoalescedFrames", 250, natural},
}

// rpsMask is the key that sets one RPS mask for all receive queues of a device.
const (
	rpsMask      = "ReceivePacketSteeringCPUMask"
	rpsMaskSince = 256
)

func natural(value string) (string, bool) {
	n, err := strconv.ParseUint(value, 10, 32)
	return strconv.FormatUint(n, 10), err == nil
}

// positive: the parser of these keys refuses 0 (config_parse_ring_buffer_or_channel).
func positive(value string) (string, bool) {
	text, ok := natural(value)
	return text, ok && text != "0"
}

// microseconds names the unit: a bare number would mean seconds.
func microseconds(value string) (string, bool) {
	text, ok := natural(value)
	return text + "us", ok
}

func yesNo(value string) (string, bool) {
	switch value {
	case "on":
		return "yes", true
	case "off":
		return "no", true
	default:
		return "", false
	}
}

// Link writes the settings of devices as systemd .link files (systemd.link(5)),
// one after the other, each headed by its path, and lists as comments what such
// files cannot hold.
func Link(w io.Writer, a Advice) error {
	p := &page{w: w}
	files, rest := linkFiles(a)
	switch {
	case len(files) == 0:
		p.planComment(a, "the settings of devices")
		p.line("# There is no change that a systemd .link file could hold.")
	case len(files) > 1:
		p.line(fmt.Sprintf("# %d files follow. Each must go to its own path: in one file the settings of one device would", len(files)))
		p.line("# hold for the others.")
		p.blank()
	}
	for i, f := range files {
		if i > 0 {
			p.blank()
		}
		p.line("# " + comment(f.Path))
		p.write(f.Text)
	}
	p.unexpressed("In no .link file:", rest)
	p.leftOver(a.Plan)
	return p.err
}

// LinkFiles makes one .link file for each device with a change that such a file
// can hold.
func LinkFiles(a Advice) []File {
	files, _ := linkFiles(a)
	return files
}

// linkFiles also returns the changes that are mentioned in none of the files.
func linkFiles(a Advice) (files []File, rest []unexpressed) {
	var devices []string
	for _, c := range a.Plan.Changes {
		switch {
		case c.Ref.Dev == "":
			rest = append(rest, unexpressed{c, "a host-wide setting, which belongs into sysctl.d"})
		case !slices.Contains(devices, c.Ref.Dev):
			devices = append(devices, c.Ref.Dev)
		}
	}
	for _, dev := range devices {
		l := newLinkDevice(a, dev)
		if len(l.settings) == 0 {
			rest = append(rest, l.rest...)
			continue
		}
		var text strings.Builder
		l.write(&page{w: &text}, a)
		files = append(files, File{Path: "/etc/systemd/network/10-napitune-" + dev + ".link", Text: text.String()})
	}
	return files, rest
}

// linkSetting is one line of [Link] with its comment.
type linkSetting struct {
	changes []plan.Change
	since   int
	line    string
}

// linkDevice is what is to be written about one device.
type linkDevice struct {
	origin   plan.OriginDevice
	queues   int // receive queues in use, 0 if unknown
	settings []linkSetting
	rest     []unexpressed
}

// fileName are the device names that can be part of a file name as they are.
var fileName = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9_.-]*$`)

func newLinkDevice(a Advice, dev string) linkDevice {
	l := linkDevice{origin: plan.OriginDevice{Name: dev}}
	if a.Plan.Origin != nil {
		for _, d := range a.Plan.Origin.Devices {
			if d.Name == dev {
				l.origin = d
			}
		}
	}
	for _, d := range a.Host.Devices {
		if d.Name == dev {
			l.queues = d.Queues
		}
	}
	var masks []plan.Change
	for _, c := range a.Plan.Changes {
		switch {
		case c.Ref.Dev != dev:
		case !fileName.MatchString(dev):
			l.rest = append(l.rest, unexpressed{c, "the name of the device cannot be part of a file name"})
		case c.Ref.Kind == "rps.cpus":
			masks = append(masks, c)
		default:
			l.add(c)
		}
	}
	l.addMasks(masks, a.Plan.Kept)
	return l
}

func (l *linkDevice) add(c plan.Change) {
	key, ok := linkKeys[c.Ref.Kind]
	if !ok {
		l.rest = append(l.rest, unexpressed{c, noKey(c.Ref.Kind)})
		return
	}
	value, ok := key.form(c.After)
	if !ok {
		l.rest = append(l.rest, unexpressed{c, key.name + "= does not take this value"})
		return
	}
	l.settings = append(l.settings, linkSetting{[]plan.Change{c}, key.since, key.name + "=" + value})
}

// noKey says why a setting has no key.
func noKey(kind string) string {
	switch kind {
	case "irq.affinity":
		return "no key pins single queues; IRQAffinityPolicy= (systemd 261) spreads or stacks all interrupts of a device, and finds none of a virtio device"
	case "gro_flush_timeout", "napi_defer_hard_irqs", "threaded":
		return "there is no key for it; a udev rule can set ATTR{" + kind + "}"
	default:
		return "there is no key for it"
	}
}

// addMasks expresses RPS if the plan leaves all receive queues of the device
// with one mask: the key knows no single queues.
func (l *linkDevice) addMasks(masks []plan.Change, kept []plan.Kept) {
	if len(masks) == 0 {
		return
	}
	same, covered := true, len(masks)
	for _, c := range masks {
		same = same && c.After == masks[0].After
	}
	for _, k := range kept {
		if k.Ref.Dev == l.origin.Name && k.Ref.Kind == "rps.cpus" {
			same, covered = same && k.Value == masks[0].After, covered+1
		}
	}
	cpus, err := cpuset.ParseList(masks[0].After)
	if err == nil && same && l.queues > 0 && covered == l.queues {
		value := cmp.Or(cpus.String(), "disable")
		l.settings = append(l.settings, linkSetting{masks, rpsMaskSince, rpsMask + "=" + value})
		return
	}
	why := rpsMask + "= (systemd 256) sets one mask for all receive queues, and these are not all, or differ"
	for _, c := range masks {
		l.rest = append(l.rest, unexpressed{c, why})
	}
}

func (l *linkDevice) write(p *page, a Advice) {
	d := l.origin
	p.planComment(a, "the settings of "+d.Name)
	p.line("# systemd-udevd reads it when the device appears: at boot, and at once by:")
	p.line("#   udevadm control --reload && udevadm trigger --action=add /sys/class/net/" + comment(d.Name))
	p.line("# Of all .link files only the first that matches a device counts. If the device has one already")
	p.line("# (ID_NET_LINK_FILE in udevadm info /sys/class/net/" + comment(d.Name) + "), put the settings below the policies into")
	p.line("# a drop-in of that file instead: FILE.d/napitune.conf.")
	p.line("[Match]")
	l.match(p)
	p.blank()
	p.line("[Link]")
	p.line("# As in systemd's 99-default.link, which this file replaces for the device. If that of this")
	p.line("# host says otherwise, copy its lines.")
	p.line("NamePolicy=keep kernel database onboard slot path")
	p.line("AlternativeNamesPolicy=database onboard slot path")
	p.line("MACAddressPolicy=persistent")
	for _, s := range l.settings {
		p.blank()
		for _, c := range s.changes {
			p.line(changeComment(c))
		}
		p.line("# since systemd " + strconv.Itoa(s.since))
		p.line(s.line)
	}
	p.unexpressed("Not in this file:", l.rest)
}

var (
	pciFunction = regexp.MustCompile(`^[0-9a-f]{4,8}:[0-9a-f]{2}:[0-9a-f]{2}\.[0-7]$`)
	// kernelName are the names that the kernel gives itself; OriginalName= is
	// compared before udev renames the device.
	kernelName = regexp.MustCompile(`^(eth|wlan|usb|wwan|ib)[0-9]+$`)
	driverName = regexp.MustCompile(`^[A-Za-z0-9_-]+$`)
)

// match writes the [Match] section: the PCI address where there is one, else
// driver and name.
func (l *linkDevice) match(p *page) {
	d := l.origin
	if pciFunction.MatchString(d.Bus) {
		// ID_PATH of a device behind a platform bridge has a prefix
		// (platform-40000000.pcie-pci-0000:01:00.0).
		p.line("Path=pci-" + d.Bus + " *-pci-" + d.Bus)
		return
	}
	p.line("# Warning: the address of the device is not known, and names can change from boot to boot.")
	p.line("# Better is PermanentMACAddress= with what ethtool -P " + comment(d.Name) + " prints.")
	if !kernelName.MatchString(d.Name) {
		p.line("# " + comment(d.Name) + " is a name that udev gave: OriginalName= needs the one that the kernel gave before.")
	}
	if driverName.MatchString(d.Driver) {
		p.line("Driver=" + d.Driver)
	}
	p.line("OriginalName=" + d.Name)
}
