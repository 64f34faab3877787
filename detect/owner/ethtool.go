package owner

import "strings"

// Words of ethtool that mean settings of this tool. Features have the names that
// ethtool -K takes and those that -k prints.
var featureWords = map[string]string{
	"gro": "rx-gro", "generic-receive-offload": "rx-gro", "rx-gro": "rx-gro",
	"lro": "rx-lro", "large-receive-offload": "rx-lro", "rx-lro": "rx-lro",
	"rxhash": "rx-hashing", "receive-hashing": "rx-hashing", "rx-hashing": "rx-hashing",
	"ntuple": "rx-ntuple-filter", "ntuple-filters": "rx-ntuple-filter", "rx-ntuple-filter": "rx-ntuple-filter",
	"rx-gro-hw": "rx-gro-hw", "rx-gro-list": "rx-gro-list", "rx-udp-gro-forwarding": "rx-udp-gro-forwarding",
}

var (
	directions    = map[string]bool{"rx": true, "tx": true}
	channelWords  = map[string]bool{"rx": true, "tx": true, "combined": true}
	coalesceWords = map[string]bool{
		"adaptive-rx": true, "adaptive-tx": true, "rx-usecs": true, "tx-usecs": true, "rx-frames": true, "tx-frames": true,
	}
)

// ethtoolKind is the kind of setting behind a group and a word of ethtool, "" if
// this tool has none.
func ethtoolKind(group, word string) string {
	switch {
	case group == "feature" && featureWords[word] != "":
		return "feature." + featureWords[word]
	case group == "ring" && directions[word]:
		return "ring." + word
	case group == "channels" && channelWords[word]:
		return "channels." + word
	case group == "coalesce" && coalesceWords[word]:
		return "coalesce." + word
	}
	return ""
}

// ethtoolClaims reads words and values by turns, as on ethtool's command line:
// "rx 1024 tx 512".
func ethtoolClaims(group, text, source string) []Claim {
	words := strings.FieldsFunc(text, func(c rune) bool { return c == ' ' || c == '\t' || c == ',' || c == ':' || c == '=' })
	var out []Claim
	for i := 0; i+1 < len(words); i += 2 {
		if kind := ethtoolKind(group, words[i]); kind != "" {
			out = append(out, Claim{Kind: kind, Value: words[i+1], Source: source})
		}
	}
	return out
}
