package archive

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/napitune/napitune/detect/host"
	"github.com/napitune/napitune/detect/host/tree"
)

// sosreport reads the outputs of commands that a report keeps under
// sos_commands/PLUGIN/COMMAND, with blanks as underscores.
type sosreport struct {
	files *tree.Tree
	// folders lists the files of each plugin.
	folders map[string][]string
}

const sosRoot = "sos_commands/"

func newSosreport(files *tree.Tree) *sosreport {
	s := &sosreport{files: files, folders: map[string][]string{}}
	plugins, err := files.ReadDir(strings.TrimSuffix(sosRoot, "/"))
	if err != nil {
		return s
	}
	for _, plugin := range plugins {
		entries, err := files.ReadDir(sosRoot + plugin.Name())
		if err != nil {
			continue
		}
		for _, e := range entries {
			s.folders[plugin.Name()] = append(s.folders[plugin.Name()], e.Name())
		}
	}
	return s
}

// output is what a command printed; what is its name for errors.
func (s *sosreport) output(plugin, file, what string) (string, error) {
	if !slices.Contains(s.folders[plugin], file) {
		return "", notCaptured(what)
	}
	data, err := s.files.ReadFile(sosRoot + plugin + "/" + file)
	if err != nil {
		return "", fmt.Errorf("%s: %w", what, host.ErrNotCaptured)
	}
	return string(data), nil
}

// sosName replaces what a report does not put into file names (sos/report/plugins
// of sos: everything but letters, digits, "_", "-", ".").
func sosName(text string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case r >= 'a' && r <= 'z', r >= 'A' && r <= 'Z', r >= '0' && r <= '9', r == '_', r == '-', r == '.':
			return r
		}
		return '_'
	}, text)
}

// ethtoolOptions are the spellings of each option.
var ethtoolOptions = map[string][]string{
	"-i": {"-i", "--driver"}, "-l": {"-l", "--show-channels"}, "-g": {"-g", "--show-ring"},
	"-c": {"-c", "--show-coalesce"}, "-k": {"-k", "--show-features", "--show-offload"},
	"-x": {"-x", "--show-rxfh-indir", "--show-rxfh"}, "-S": {"-S", "--statistics"},
	"-n": {"-n", "-u", "--show-nfc", "--show-ntuple"},
}

// ethtoolText finds the output of ethtool OPTION DEV [REST].
func (s *sosreport) ethtoolText(option, dev, rest string) (string, error) {
	what := strings.TrimSpace("ethtool " + option + " " + dev + " " + rest)
	for _, spelling := range ethtoolOptions[option] {
		name := sosName(strings.TrimSpace("ethtool " + spelling + " " + dev + " " + rest))
		if text, err := s.output("networking", name, what); err == nil {
			return text, nil
		}
	}
	return "", notCaptured(what)
}

// parsed reads one output with its parser.
func parsed[T any](s *sosreport, option, dev string, parse func(string) (T, error)) (T, error) {
	var zero T
	text, err := s.ethtoolText(option, dev, "")
	if err != nil {
		return zero, err
	}
	value, err := parse(text)
	if err != nil {
		return zero, fmt.Errorf("ethtool %s %s: %w", option, dev, err)
	}
	return value, nil
}

func (s *sosreport) ethtool() host.Ethtool {
	return host.Ethtool{
		DriverInfo: s.driverInfo,
		Channels:   func(dev string) (host.Channels, error) { return parsed(s, "-l", dev, parseChannels) },
		Rings:      func(dev string) (host.Rings, error) { return parsed(s, "-g", dev, parseRings) },
		Coalesce:   func(dev string) (host.Coalesce, error) { return parsed(s, "-c", dev, parseCoalesce) },
		Features:   func(dev string) (host.Features, error) { return parsed(s, "-k", dev, parseFeatures) },
		RSS:        func(dev string) (host.RSS, error) { return parsed(s, "-x", dev, parseRSS) },
		Stats:      func(dev string) (host.Stats, error) { return parsed(s, "-S", dev, parseStats) },
		HashFields: s.hashFields,
	}
}

// driverInfo resolves the bus "virtio2" to the PCI address in the path of the
// device where the tree has it.
func (s *sosreport) driverInfo(dev string) (host.DriverInfo, error) {
	info, err := parsed(s, "-i", dev, parseDriverInfo)
	if err != nil || !strings.HasPrefix(info.Bus, "virtio") {
		return info, err
	}
	target, err := s.files.ReadLink("sys/bus/virtio/devices/" + sosName(info.Bus))
	if err != nil {
		return info, nil
	}
	parts := strings.Split(target, "/")
	if len(parts) >= 2 && strings.Count(parts[len(parts)-2], ":") == 2 {
		info.Bus = parts[len(parts)-2]
	}
	return info, nil
}

func (s *sosreport) hashFields(dev, flow string) (string, error) {
	text, err := s.ethtoolText("-n", dev, "rx-flow-hash "+flow)
	if err != nil {
		return "", err
	}
	fields, err := parseHashFields(text)
	if err != nil {
		return "", fmt.Errorf("ethtool -n %s rx-flow-hash %s: %w", dev, flow, err)
	}
	return fields, nil
}

// linkOutputs are commands that list the devices, the most detailed first.
var linkOutputs = [...]string{"ip_-s_-d_link", "ip_-d_link", "ip_-s_-d_link_show", "ip_-d_link_show", "ip_-d_address", "ip_link"}

func (s *sosreport) links() ([]host.Link, error) {
	for _, name := range linkOutputs {
		text, err := s.output("networking", name, "ip link")
		if err != nil {
			continue
		}
		links, err := parseLinks(text)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		return links, nil
	}
	return nil, notCaptured("ip link")
}

// processes takes the first output of ps that tells the CPU, else the first.
func (s *sosreport) processes() ([]host.Process, error) {
	var best []host.Process
	err := notCaptured("ps")
	for _, name := range s.folders["process"] {
		if !strings.HasPrefix(name, "ps_") {
			continue
		}
		text, failed := s.output("process", name, name)
		if failed != nil {
			continue
		}
		list, failed := parseProcesses(text)
		if failed != nil {
			continue
		}
		if best == nil {
			best, err = list, nil
		}
		if len(list) > 0 && list[0].CPU >= 0 {
			return list, nil
		}
	}
	return best, err
}

// ident adds to what the files say what uname and lscpu printed.
func (s *sosreport) ident() (host.Ident, error) {
	id := host.IdentFromFS(s.files)
	uname, _ := s.output("kernel", "uname_-a", "uname -a")
	if words := strings.Fields(uname); len(words) > 4 && words[0] == "Linux" {
		if id.Release == "" {
			id.Release = words[2]
		}
		// "… x86_64 x86_64 x86_64 GNU/Linux": machine, processor, platform, system.
		if id.Arch == "" {
			id.Arch = words[len(words)-2]
		}
		id.Realtime = id.Realtime || slices.Contains(words, "PREEMPT_RT")
	}
	text, err := s.output("processor", "lscpu", "lscpu")
	if err != nil {
		return id, nil
	}
	cpus := parseSummary(text)
	if id.Arch == "" {
		id.Arch = cpus["Architecture"]
	}
	if id.Virtualization == "" || id.Virtualization == "vm-other" {
		id.Virtualization = firstNonEmpty(cpus.virtualization(), id.Virtualization)
	}
	// lscpu of an x86 host always names the hypervisor if the CPU shows one.
	if id.Virtualization == "" && strings.HasPrefix(cpus["Architecture"], "x86") && cpus["Hypervisor vendor"] == "" {
		id.Virtualization = "none"
	}
	return id, nil
}

func firstNonEmpty(a, b string) string {
	if a != "" {
		return a
	}
	return b
}

// derive adds files to the tree that follow from outputs of commands, where
// the tree itself lacks them, and says which.
func (s *sosreport) derive() []string {
	var notes []string
	if len(s.folders) == 0 {
		return nil
	}
	if _, err := s.files.Lstat("sys/devices/system/cpu"); err != nil {
		notes = append(notes, s.deriveCPUs()...)
	}
	if _, err := s.files.Lstat("sys/class/dmi/id"); err != nil {
		notes = append(notes, s.deriveDMI()...)
	}
	if _, err := s.files.Lstat("sys/class/net"); err != nil {
		notes = append(notes, s.deriveDevices()...)
	}
	return notes
}

func (s *sosreport) store(files map[string]string) bool {
	stored := false
	for name, text := range files {
		stored = s.files.WriteFile(name, []byte(text)) == nil || stored
	}
	return stored
}

func (s *sosreport) deriveCPUs() []string {
	var rows []cpuRow
	for _, name := range []string{"lscpu_-ae", "lscpu_-p"} {
		text, err := s.output("processor", name, name)
		if err != nil {
			continue
		}
		if rows, err = parseCPUTable(text); err == nil {
			break
		}
	}
	text, _ := s.output("processor", "lscpu", "lscpu")
	if !s.store(cpuFiles(rows, parseSummary(text))) {
		return nil
	}
	return []string{"CPUs are taken from the output of lscpu; possible CPUs are assumed to be the ones present"}
}

// deriveDMI takes vendor and product from the "System Information" of dmidecode.
func (s *sosreport) deriveDMI() []string {
	text, err := s.output("hardware", "dmidecode", "dmidecode")
	if err != nil {
		return nil
	}
	_, system, found := strings.Cut(text, "\nSystem Information\n")
	system, _, _ = strings.Cut(system, "\n\n")
	values := parseSummary(system)
	if !found || values["Manufacturer"] == "" {
		return nil
	}
	s.store(map[string]string{
		"sys/class/dmi/id/sys_vendor":   values["Manufacturer"] + "\n",
		"sys/class/dmi/id/product_name": values["Product Name"] + "\n",
	})
	return []string{"vendor and product are taken from the output of dmidecode"}
}

// deriveDevices names the devices of which some output tells in the listing of
// sys/class/net; everything below stays unknown.
func (s *sosreport) deriveDevices() []string {
	names := map[string]bool{}
	links, _ := s.links()
	for _, l := range links {
		names[l.Name] = true
	}
	if data, err := s.files.ReadFile("proc/net/dev"); err == nil {
		lines(string(data), func(line string) {
			if name, _, ok := strings.Cut(line, ":"); ok {
				names[name] = true
			}
		})
	}
	for _, file := range s.folders["networking"] {
		if name, ok := ethtoolDevice(file); ok && len(links) == 0 {
			names[name] = true
		}
	}
	var entries []tree.Entry
	for _, name := range slices.Sorted(maps.Keys(names)) {
		if validDevice(name) {
			entries = append(entries, tree.Entry{Name: name})
		}
	}
	if len(entries) == 0 || s.files.SetEntries("sys/class/net", entries) != nil {
		return nil
	}
	return []string{"network devices are named from outputs of commands; their sys/class/net is not captured"}
}

// ethtoolDevice is the device in the name of a file with an output of ethtool.
// Options are matched as a whole, because device names may contain "_" and "-".
func ethtoolDevice(file string) (string, bool) {
	rest, ok := strings.CutPrefix(file, "ethtool_")
	if !ok {
		return "", false
	}
	if rest[:min(1, len(rest))] != "-" {
		return rest, validDevice(rest)
	}
	for option, spellings := range ethtoolOptions {
		for _, spelling := range spellings {
			if dev, ok := strings.CutPrefix(rest, spelling+"_"); ok && option != "-n" {
				return dev, validDevice(dev)
			}
		}
	}
	return "", false
}

// validDevice applies dev_valid_name (net/core/dev.c).
func validDevice(name string) bool {
	return name != "" && name != "." && name != ".." && len(name) <= 15 && !strings.ContainsAny(name, "/: \t\n\v\f\r")
}
