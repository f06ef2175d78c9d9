package guard

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc64"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"

	"github.com/novacron/novacron/api"
)

const stateName = "state"

// saveState replaces the state file: a line with the CRC-64 of the rest, then
// JSON. The folder is in memory and the file is of no use after the boot, so
// nothing is synced.
func saveState(dir string, s State) error {
	path := filepath.Join(dir, stateName)
	if err := os.WriteFile(path+".new", encodeState(s), 0o600); err != nil {
		return err
	}
	return os.Rename(path+".new", path)
}

func encodeState(s State) []byte {
	b, err := json.Marshal(s)
	if err != nil {
		panic("the state cannot be written as JSON: " + err.Error()) // numbers and texts only
	}
	return append(fmt.Appendf(nil, "%016x\n", crc64.Checksum(b, crcTable)), b...)
}

// decodeState reads what encodeState wrote.
func decodeState(b []byte) (State, error) {
	sum, body, ok := bytes.Cut(b, []byte{'\n'})
	want, err := strconv.ParseUint(string(sum), 16, 64)
	if !ok || err != nil || len(sum) != 16 || want != crc64.Checksum(body, crcTable) {
		return State{}, errors.New("its checksum does not hold")
	}
	var s State
	if err := json.Unmarshal(body, &s); err != nil {
		return State{}, err
	}
	if !slices.IsSortedFunc(s.Armed, func(a, b Armed) int { return slices.Compare(a.VM[:], b.VM[:]) }) {
		return State{}, errors.New("what is armed is not in order")
	}
	return s, nil
}

// loadState reads the state file; none is an empty state. One that cannot be read
// is an error, because what was armed is then not known.
func loadState(dir string) (State, error) {
	path := filepath.Join(dir, stateName)
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return State{}, nil
	}
	if err != nil {
		return State{}, err
	}
	s, err := decodeState(b)
	if err != nil {
		return State{}, api.Errorf(api.CodeJournal, "%s: %v: what was armed is not known", path, err).
			WithHint("make sure that no HA VM runs here, then remove the file")
	}
	return s, nil
}
