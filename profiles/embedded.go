package profiles

import (
	"embed"
	"fmt"
	"slices"
	"strings"
	"sync"

	"github.com/napitune/napitune/profiles/strict"
)

// defaultName is the policy for those who name none.
const defaultName = "balanced"

//go:embed policies/*.yaml
var policyFiles embed.FS

// embedded parses the policies that come with the program, by name. They are
// constants, held against the rules by a test, so that an error here is an
// impossible state.
var embedded = sync.OnceValue(func() map[string]Policy {
	out := map[string]Policy{}
	for _, name := range fileNames() {
		if _, err := load(name, out); err != nil {
			panic(fmt.Sprintf("profiles: %v", err))
		}
	}
	return out
})

// load parses an embedded policy after those it extends.
func load(name string, done map[string]Policy) (Policy, error) {
	if p, ok := done[name]; ok {
		return p, nil
	}
	path := "policies/" + name + ".yaml"
	data, err := policyFiles.ReadFile(path)
	if err != nil {
		return Policy{}, err
	}
	p, err := parse(path, data, nil, func(base string) (Policy, error) {
		if base == name {
			return Policy{}, fmt.Errorf("it extends itself")
		}
		return load(base, done)
	})
	if err != nil {
		return Policy{}, err
	}
	if p.Name != name {
		return Policy{}, fmt.Errorf("%s: its name is %q", path, p.Name)
	}
	done[name] = p
	return p, nil
}

func fileNames() []string {
	entries, err := policyFiles.ReadDir("policies")
	if err != nil {
		panic(fmt.Sprintf("profiles: %v", err))
	}
	var out []string
	for _, e := range entries {
		out = append(out, strings.TrimSuffix(e.Name(), ".yaml"))
	}
	return out
}

// Names lists the policies that come with the program: the default first,
// then by name.
func Names() []string {
	names := slices.DeleteFunc(fileNames(), func(n string) bool { return n == defaultName })
	slices.Sort(names)
	return append([]string{defaultName}, names...)
}

// ByName returns a policy that comes with the program. The copy is the
// caller's own.
func ByName(name string) (Policy, error) {
	if p, ok := embedded()[name]; ok {
		return p.clone(), nil
	}
	return Policy{}, fmt.Errorf("there is no policy %q%s", strict.Clip(name), strict.Choices(name, Names()))
}

// Balanced is the default policy.
func Balanced() Policy { return embedded()[defaultName].clone() }
