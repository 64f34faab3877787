package owner

import (
	"maps"
	"path"
	"slices"
	"strconv"
	"strings"

	"github.com/napitune/napitune/detect/knob"
)

// names lists the files of a folder that end in suffix; none if it cannot be read.
func (f *finder) names(dir, suffix string) []string {
	entries, err := f.h.ReadDir(dir)
	if err != nil {
		return nil
	}
	var out []string
	for _, e := range entries {
		if strings.HasSuffix(e.Name(), suffix) {
			out = append(out, e.Name())
		}
	}
	return out
}

// text reads a file; "" if it cannot be read.
func (f *finder) text(name string) string {
	data, err := f.h.ReadFile(name)
	if err != nil {
		return ""
	}
	return string(data)
}

// layered lists the files of several folders in the order in which systemd
// reads them: by name, where one in an earlier folder hides its namesakes.
func (f *finder) layered(dirs []string, suffix string) []string {
	where := map[string]string{}
	for _, dir := range dirs {
		for _, name := range f.names(dir, suffix) {
			if _, hidden := where[name]; !hidden {
				where[name] = dir
			}
		}
	}
	var out []string
	for _, name := range slices.Sorted(maps.Keys(where)) {
		out = append(out, path.Join(where[name], name))
	}
	return out
}

// sysctlFiles are what is read at boot: by systemd-sysctl (sysctl.d(5)), and
// where there is none by sysctl --system, which has one more file (sysctl(8)).
func sysctlFiles(f *finder) []Owner {
	files := f.layered([]string{"etc/sysctl.d", "run/sysctl.d", "usr/local/lib/sysctl.d", "usr/lib/sysctl.d"}, ".conf")
	if _, err := f.h.ReadDir("run/systemd/system"); err != nil {
		files = append(files, "etc/sysctl.conf")
	}
	last := map[string]Claim{}
	for _, file := range files {
		for _, p := range parseSysctls(f.text(file)) {
			last[p.key] = Claim{Kind: p.key, Value: p.value, Source: "/" + file}
		}
	}
	var out []Owner
	for _, key := range slices.Sorted(maps.Keys(last)) {
		c := last[key]
		out = append(out, Owner{Name: "sysctl.d", Habit: AtBoot, When: "at boot", Remedy: "change it in " + c.Source, Claims: []Claim{c}})
	}
	return out
}

// parseSysctls reads the settings of this tool out of a sysctl.d file: dots or
// slashes, and a dash before a key whose failure is ignored.
func parseSysctls(text string) []pair {
	var out []pair
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		key, value, ok := strings.Cut(line, "=")
		if !ok || line[0] == '#' || line[0] == ';' {
			continue
		}
		key = strings.ReplaceAll(strings.TrimSpace(strings.TrimPrefix(key, "-")), "/", ".")
		if isSysctl(key) {
			out = append(out, pair{key, strings.TrimSpace(value)})
		}
	}
	return out
}

func isSysctl(key string) bool {
	kind, ok := knob.Lookup(key)
	return ok && kind.Stage == knob.StageSysctl
}

// linkDirs hold .link files and their drop-ins (systemd.link(5)).
var linkDirs = [...]string{"etc/systemd/network", "run/systemd/network", "usr/local/lib/systemd/network", "usr/lib/systemd/network"}

// linkFiles are the .link files that systemd-udevd applied to devices when they
// appeared. Which one that was, it wrote down itself (udev's database).
func linkFiles(f *finder) []Owner {
	var out []Owner
	for _, l := range f.links() {
		file := linkFileOf(f.text("run/udev/data/n" + strconv.Itoa(l.Index)))
		if file == "" {
			continue
		}
		texts := map[string]string{"/" + file: f.text(file)}
		order := []string{"/" + file}
		var dropIns []string
		for _, dir := range linkDirs {
			dropIns = append(dropIns, path.Join(dir, path.Base(file)+".d"))
		}
		for _, name := range f.layered(dropIns, ".conf") {
			order = append(order, "/"+name)
			texts["/"+name] = f.text(name)
		}
		for _, source := range order {
			claims := parseLink(texts[source], l.Name, source)
			if len(claims) > 0 {
				out = append(out, Owner{
					Name: "systemd-udevd", Habit: AtBoot, When: "when the device appears", Remedy: "change it in " + source, Claims: claims,
				})
			}
		}
	}
	return out
}

// linkFileOf finds the .link file in an entry of udev's database.
func linkFileOf(entry string) string {
	for line := range strings.Lines(entry) {
		if file, ok := strings.CutPrefix(line, "E:ID_NET_LINK_FILE=/"); ok {
			return path.Clean(strings.TrimSpace(file))
		}
	}
	return ""
}

// linkKinds are the options of section [Link] that are settings here.
var linkKinds = map[string]string{
	"RxBufferSize": "ring.rx", "TxBufferSize": "ring.tx",
	"RxChannels": "channels.rx", "TxChannels": "channels.tx", "CombinedChannels": "channels.combined",
	"GenericReceiveOffload": "feature.rx-gro", "GenericReceiveOffloadHardware": "feature.rx-gro-hw",
	"LargeReceiveOffload": "feature.rx-lro", "NTupleFilter": "feature.rx-ntuple-filter",
	"UseAdaptiveRxCoalesce": "coalesce.adaptive-rx", "UseAdaptiveTxCoalesce": "coalesce.adaptive-tx",
	"RxCoalesceSec": "coalesce.rx-usecs", "TxCoalesceSec": "coalesce.tx-usecs",
	"RxMaxCoalescedFrames": "coalesce.rx-frames", "TxMaxCoalescedFrames": "coalesce.tx-frames",
	"ReceivePacketSteeringCPUMask": "rps.cpus",
	"IRQAffinity":                  "irq.affinity", "IRQAffinityPolicy": "irq.affinity", "IRQAffinityNUMA": "irq.affinity",
}

// parseLink reads what a .link file sets of a device.
func parseLink(text, dev, source string) []Claim {
	var out []Claim
	for _, s := range parseINI(text) {
		if s.name != "Link" {
			continue
		}
		for _, p := range s.pairs {
			if kind, ok := linkKinds[p.key]; ok && p.value != "" {
				out = append(out, Claim{Kind: kind, Dev: dev, Value: linkValue(p.key, p.value), Source: source})
			}
		}
	}
	return out
}

// linkValue is the value of an option as the setting has it; the whole option
// where it says something else than a number, a switch or microseconds.
func linkValue(key, value string) string {
	if microseconds, ok := strings.CutSuffix(value, "us"); ok && strings.HasSuffix(key, "Sec") {
		value = strings.TrimSpace(microseconds)
	} else if strings.HasSuffix(key, "Sec") {
		return key + "=" + value // a bare number is seconds
	}
	switch value {
	case "1", "yes", "true", "on":
		if isSwitch(key) {
			return "on"
		}
	case "0", "no", "false", "off":
		if isSwitch(key) {
			return "off"
		}
	}
	if n, err := strconv.ParseUint(value, 10, 32); err == nil && linkKinds[key] != "rps.cpus" && !isSwitch(key) {
		return strconv.FormatUint(n, 10)
	}
	return key + "=" + value
}

func isSwitch(key string) bool {
	kind, ok := knob.Lookup(linkKinds[key])
	return ok && kind.Codec.Name == "switch"
}
