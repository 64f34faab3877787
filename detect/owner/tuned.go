package owner

import (
	"path"
	"slices"
	"strings"
)

// tunedDirs hold profiles; the first that has one wins (tuned-profiles(7); with
// "profiles" since 2.23).
var tunedDirs = [...]string{"etc/tuned/profiles", "etc/tuned", "usr/lib/tuned/profiles", "usr/lib/tuned"}

// maxIncludes bounds how many profiles one may include: a loop is the only way
// to have more.
const maxIncludes = 16

// tuned is what the active profiles of a running tuned set.
func tuned(f *finder) []Owner {
	active := strings.Fields(f.text("etc/tuned/active_profile"))
	if !f.runs("tuned") || len(active) == 0 {
		return nil
	}
	// Of several profiles the later one wins, and a profile over what it includes.
	var claims []Claim
	for _, name := range slices.Backward(active) {
		left := maxIncludes
		claims = append(claims, f.tunedProfile(name, &left)...)
	}
	if len(claims) == 0 {
		return nil
	}
	return []Owner{{
		Name: "tuned", Habit: OnEvent, When: "when it starts, when its profile is chosen, or when a device appears",
		Remedy: "tuned-adm off, or a profile of your own without it", Claims: claims,
	}}
}

func (f *finder) tunedProfile(name string, left *int) []Claim {
	if *left--; *left < 0 || name == "" || strings.ContainsAny(name, "/\x00") || name == "." || name == ".." {
		return nil
	}
	for _, dir := range tunedDirs {
		file := path.Join(dir, name, "tuned.conf")
		text := f.text(file)
		if text == "" {
			continue
		}
		claims, includes := f.parseTuned(text, "/"+file)
		for _, other := range slices.Backward(includes) {
			claims = append(claims, f.tunedProfile(other, left)...)
		}
		return claims
	}
	return nil
}

// parseTuned reads a profile: a section is an instance of the plugin of its type,
// which is its name unless it says otherwise.
func (f *finder) parseTuned(text, source string) (claims []Claim, includes []string) {
	for _, s := range parseINI(text) {
		plugin := s.get("type")
		if plugin == "" {
			plugin = s.name
		}
		switch plugin {
		case "main":
			includes = strings.FieldsFunc(s.get("include"), func(c rune) bool { return c == ',' || c == ';' || c == ' ' })
		case "sysctl":
			for _, p := range s.pairs {
				if isSysctl(p.key) {
					claims = append(claims, Claim{Kind: p.key, Value: plain(p.value), Source: source})
				}
			}
		case "net":
			claims = append(claims, f.tunedNet(s, source)...)
		case "sysfs":
			for _, p := range s.pairs {
				if kind := sysfsKinds[path.Base(p.key)]; kind != "" && strings.HasPrefix(p.key, "/sys/class/net/") {
					claims = append(claims, Claim{Kind: kind, Dev: sysfsDevice(p.key), Value: plain(p.value), Source: source})
				}
			}
		case "irq":
			claims = append(claims, Claim{Kind: "irq.affinity", Source: source})
		case "scheduler":
			if s.get("isolated_cores") != "" {
				claims = append(claims, Claim{Kind: "irq.affinity", Source: source})
			}
		}
	}
	return claims, includes
}

// sysfsKinds are the files of devices and queues that are settings here.
var sysfsKinds = map[string]string{
	"rps_cpus": "rps.cpus", "rps_flow_cnt": "rps.flow_cnt", "xps_cpus": "xps.cpus", "xps_rxqs": "xps.rxqs",
	"gro_flush_timeout": "gro_flush_timeout", "napi_defer_hard_irqs": "napi_defer_hard_irqs", "threaded": "threaded",
}

// sysfsDevice is the device of a path below /sys/class/net, "" for a pattern.
func sysfsDevice(name string) string {
	dev, _, _ := strings.Cut(strings.TrimPrefix(name, "/sys/class/net/"), "/")
	if strings.ContainsAny(dev, "*?[") {
		return ""
	}
	return dev
}

// tunedNet reads a section of the net plugin.
func (f *finder) tunedNet(s section, source string) []Claim {
	var all []Claim
	for option, group := range map[string]string{"features": "feature", "ring": "ring", "channels": "channels", "coalesce": "coalesce"} {
		all = append(all, ethtoolClaims(group, s.get(option), source)...)
	}
	slices.SortFunc(all, func(a, b Claim) int { return strings.Compare(a.Kind, b.Kind) })
	var out []Claim
	for _, dev := range f.tunedDevices(s.get("devices")) {
		for _, c := range all {
			c.Dev, c.Value = dev, plain(c.Value)
			out = append(out, c)
		}
	}
	return out
}

// tunedDevices are the devices that a list of patterns names: "" alone for all.
// A pattern after an exclamation mark takes away.
func (f *finder) tunedDevices(list string) []string {
	patterns := strings.FieldsFunc(list, func(c rune) bool { return c == ',' || c == ' ' || c == ';' })
	if len(patterns) == 0 || slices.Equal(patterns, []string{"*"}) {
		return []string{""}
	}
	matches := func(name string, negative bool) bool {
		return slices.ContainsFunc(patterns, func(p string) bool {
			p, not := strings.CutPrefix(p, "!")
			ok, err := path.Match(p, name)
			return not == negative && err == nil && ok
		})
	}
	onlyNegative := !slices.ContainsFunc(patterns, func(p string) bool { return !strings.HasPrefix(p, "!") })
	var out []string
	for _, l := range f.links() {
		if (onlyNegative || matches(l.Name, false)) && !matches(l.Name, true) {
			out = append(out, l.Name)
		}
	}
	return out
}

// plain is a value that a person can read: tuned's variables are not resolved,
// and a leading > or < means at least or at most.
func plain(value string) string {
	if strings.Contains(value, "${") {
		return ""
	}
	return value
}
