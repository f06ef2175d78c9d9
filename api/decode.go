package api

import (
	"bytes"
	"encoding"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"reflect"
	"slices"
	"strings"
	"sync"
	"unicode/utf8"
)

//msgp:ignore walker finding fieldTable

// Limits of JSON bodies.
const (
	MaxBody  = 2 << 20 // bytes of a body, where a route does not say otherwise
	MaxDepth = 32      // objects and lists inside each other
)

// DecodeJSON reads one JSON value of at most limit bytes (MaxBody when limit is
// not positive) into v, a pointer to a zero value. It is stricter than
// encoding/json: it refuses unknown fields, names in another case, duplicate
// keys, anything after the value, invalid UTF-8, lone surrogates and deep
// nesting, and it names every wrong field, not only the first. The errors are
// *Error with CodeSyntax, CodeTooLarge, CodeDuplicateKey, CodeUnknownField or
// CodeInvalid.
func DecodeJSON(r io.Reader, limit int64, v any) error {
	if limit <= 0 {
		limit = MaxBody
	}
	data, err := io.ReadAll(io.LimitReader(r, limit+1))
	if err != nil {
		if CodeOf(err) != CodeInternal {
			return err
		}
		return Errorf(CodeSyntax, "the body cannot be read: %s", clip(err.Error()))
	}
	if int64(len(data)) > limit {
		return Errorf(CodeTooLarge, "the body is longer than %d bytes", limit)
	}
	return UnmarshalJSON(data, v)
}

// UnmarshalJSON is DecodeJSON for bytes already in memory.
func UnmarshalJSON(data []byte, v any) error {
	if len(bytes.TrimSpace(data)) == 0 {
		return Errorf(CodeSyntax, "the JSON text is empty")
	}
	if at := invalidUTF8(data); at >= 0 {
		return syntaxAt(data, at, "the byte 0x%02x is not valid UTF-8", data[at])
	}
	var raw json.RawMessage
	if err := json.Unmarshal(data, &raw); err != nil {
		var se *json.SyntaxError
		if errors.As(err, &se) {
			return syntaxAt(data, int(se.Offset)-1, "%s", se.Error())
		}
		return Errorf(CodeSyntax, "%s", clip(err.Error()))
	}
	w := walker{data: data}
	if err := w.value(reflect.TypeOf(v), "", 0); err != nil {
		return err
	}
	if err := w.result(); err != nil {
		return err
	}
	if err := json.Unmarshal(data, v); err != nil {
		return Errorf(CodeInvalid, "%s", clip(err.Error()))
	}
	return nil
}

func clip(s string) string {
	const most = 200
	if len(s) > most {
		return strings.ToValidUTF8(s[:most], "") + "..."
	}
	return s
}

func invalidUTF8(data []byte) int {
	if utf8.Valid(data) {
		return -1
	}
	for i := 0; i < len(data); {
		r, n := utf8.DecodeRune(data[i:])
		if r == utf8.RuneError && n == 1 {
			return i
		}
		i += n
	}
	return -1
}

func position(data []byte, at int) (line, column int32) {
	at = min(max(at, 0), len(data))
	head := data[:at]
	return int32(bytes.Count(head, []byte{'\n'})) + 1, int32(at-(bytes.LastIndexByte(head, '\n')+1)) + 1
}

func syntaxAt(data []byte, at int, format string, args ...any) *Error {
	line, col := position(data, at)
	e := Errorf(CodeSyntax, "the JSON text is wrong at line %d, column %d: %s", line, col, fmt.Sprintf(format, args...))
	e.Details = []Detail{{Message: fmt.Sprintf(format, args...), Line: line, Column: col}}
	return e
}

// walker goes over JSON that is known to be well formed, beside the Go type
// that it is meant for.
type walker struct {
	data     []byte
	pos      int
	findings []finding
	more     int
}

type finding struct {
	code Code
	Detail
	hint string
}

func (w *walker) add(code Code, at int, field, hint, format string, args ...any) {
	if len(w.findings) == MaxDetails {
		w.more++
		return
	}
	line, col := position(w.data, at)
	d := Detail{Field: field, Message: fmt.Sprintf(format, args...), Line: line, Column: col}
	if hint != "" {
		d.Message += ": " + hint
	}
	w.findings = append(w.findings, finding{code, d, hint})
}

func (w *walker) result() error {
	if len(w.findings) == 0 {
		return nil
	}
	// The code of the gravest kind: what is ambiguous before what is unknown
	// before what is of the wrong type.
	worst := w.findings[0]
	for _, code := range []Code{CodeInvalid, CodeUnknownField, CodeDuplicateKey} {
		if i := slices.IndexFunc(w.findings, func(f finding) bool { return f.code == code }); i >= 0 {
			worst = w.findings[i]
		}
	}
	e := Errorf(worst.code, "%s: %s", worst.Field, worst.Message)
	if worst.hint != "" {
		e.Hint = worst.hint
	}
	if n := len(w.findings) + w.more; n > 1 {
		e.Message += fmt.Sprintf(" (and %d more)", n-1)
	}
	for _, f := range w.findings {
		e.Details = append(e.Details, f.Detail)
	}
	return e
}

func (w *walker) space() {
	for w.pos < len(w.data) && strings.IndexByte(" \t\r\n", w.data[w.pos]) >= 0 {
		w.pos++
	}
}

var (
	jsonUnmarshaler = reflect.TypeFor[json.Unmarshaler]()
	textUnmarshaler = reflect.TypeFor[encoding.TextUnmarshaler]()
)

// isLeaf reports whether a type reads its JSON by itself.
func isLeaf(t reflect.Type) bool {
	p := reflect.PointerTo(t)
	return p.Implements(jsonUnmarshaler) || p.Implements(textUnmarshaler)
}

// value walks one value; t may be nil, which means anything goes.
func (w *walker) value(t reflect.Type, path string, depth int) error {
	for t != nil && t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	if t != nil && t.Kind() == reflect.Interface {
		t = nil
	}
	w.space()
	start := w.pos
	if depth > MaxDepth {
		return syntaxAt(w.data, start, "nested deeper than %d", MaxDepth)
	}
	inner, leaf := t, false
	if t != nil {
		switch {
		case isLeaf(t):
			inner, leaf = nil, true
		case t.Kind() == reflect.Slice && t.Elem().Kind() == reflect.Uint8:
			inner, leaf = nil, true
		case t.Kind() != reflect.Struct && t.Kind() != reflect.Slice && t.Kind() != reflect.Array && t.Kind() != reflect.Map:
			inner, leaf = nil, true
		}
	}
	var err error
	switch w.data[w.pos] {
	case '{':
		if inner != nil && inner.Kind() != reflect.Struct && inner.Kind() != reflect.Map {
			w.add(CodeInvalid, start, path, "", "want %s, got an object", wantOf(inner))
			inner = nil
		}
		err = w.object(inner, path, depth)
	case '[':
		if inner != nil && inner.Kind() != reflect.Slice && inner.Kind() != reflect.Array {
			w.add(CodeInvalid, start, path, "", "want %s, got a list", wantOf(inner))
			inner = nil
		}
		err = w.list(inner, path, depth)
	case '"':
		var s string
		if s, err = w.text(); err == nil && inner != nil {
			w.add(CodeInvalid, start, path, "", "want %s, got the text %s", wantOf(inner), quote(s))
		}
	default:
		for w.pos < len(w.data) && strings.IndexByte(",]} \t\r\n", w.data[w.pos]) < 0 {
			w.pos++
		}
		if word := string(w.data[start:w.pos]); inner != nil && word != "null" {
			w.add(CodeInvalid, start, path, "", "want %s, got %s", wantOf(inner), quote(word))
		}
	}
	if err != nil || !leaf {
		return err
	}
	if err := json.Unmarshal(w.data[start:w.pos], reflect.New(t).Interface()); err != nil {
		w.add(CodeInvalid, start, path, "", "%s", leafError(t, err))
	}
	return nil
}

func leafError(t reflect.Type, err error) string {
	var te *json.UnmarshalTypeError
	if errors.As(err, &te) {
		return fmt.Sprintf("want %s, got %s", wantOf(t), clip(te.Value))
	}
	return clip(err.Error())
}

func wantOf(t reflect.Type) string {
	switch t.Kind() {
	case reflect.Struct, reflect.Map:
		return "an object"
	case reflect.Slice, reflect.Array:
		if t.Elem().Kind() == reflect.Uint8 {
			return "text in base64"
		}
		if t == reflect.TypeFor[Pairs]() {
			return "an object of texts"
		}
		return "a list"
	case reflect.Bool:
		return "true or false"
	case reflect.String:
		return "text"
	case reflect.Int32, reflect.Int64, reflect.Int:
		return fmt.Sprintf("a whole number of %d bits", t.Bits())
	case reflect.Uint32, reflect.Uint64, reflect.Uint:
		return fmt.Sprintf("a whole number of %d bits without sign", t.Bits())
	default:
		return "a number"
	}
}

func (w *walker) object(t reflect.Type, path string, depth int) error {
	w.pos++ // {
	var fields *fieldTable
	var elem reflect.Type
	if t != nil && t.Kind() == reflect.Struct {
		fields = fieldsOf(t)
	} else if t != nil {
		elem = t.Elem()
	}
	seen := map[string]bool{}
	for {
		w.space()
		if w.data[w.pos] == '}' {
			w.pos++
			return nil
		}
		if w.data[w.pos] == ',' {
			w.pos++
			w.space()
		}
		at := w.pos
		key, err := w.text()
		if err != nil {
			return err
		}
		w.space()
		w.pos++ // :
		child := path + "." + key
		if path == "" {
			child = key
		}
		if len(key) > MaxLabelKey {
			child = path + "." + quote(key)
		}
		if seen[key] {
			w.add(CodeDuplicateKey, at, child, "", "is there twice")
		}
		seen[key] = true
		kind := elem
		if fields != nil {
			var known bool
			if kind, known = fields.types[key]; !known {
				hint := ""
				if s := Suggest(key, fields.names); s != "" {
					hint = fmt.Sprintf("did you mean %q?", s)
				}
				w.add(CodeUnknownField, at, child, hint, "unknown field")
			}
		}
		if err := w.value(kind, child, depth+1); err != nil {
			return err
		}
	}
}

func (w *walker) list(t reflect.Type, path string, depth int) error {
	w.pos++ // [
	var elem reflect.Type
	if t != nil {
		elem = t.Elem()
	}
	for i := 0; ; i++ {
		w.space()
		if w.data[w.pos] == ']' {
			w.pos++
			return nil
		}
		if w.data[w.pos] == ',' {
			w.pos++
		}
		if err := w.value(elem, fmt.Sprintf("%s[%d]", path, i), depth+1); err != nil {
			return err
		}
	}
}

// text reads a JSON string and refuses escapes that are half a character,
// which encoding/json would replace in silence.
func (w *walker) text() (string, error) {
	start := w.pos
	for w.pos++; w.data[w.pos] != '"'; w.pos++ {
		if w.data[w.pos] != '\\' {
			continue
		}
		at := w.pos
		w.pos++
		if w.data[w.pos] != 'u' {
			continue
		}
		switch u := w.hex(w.pos + 1); {
		case u >= 0xdc00 && u <= 0xdfff:
			return "", syntaxAt(w.data, at, "the escape \\u%04x is half a character", u)
		case u >= 0xd800 && u <= 0xdbff:
			low := -1
			if w.pos+6 < len(w.data) && w.data[w.pos+5] == '\\' && w.data[w.pos+6] == 'u' {
				low = w.hex(w.pos + 7)
			}
			if low < 0xdc00 || low > 0xdfff {
				return "", syntaxAt(w.data, at, "the escape \\u%04x is half a character", u)
			}
			w.pos += 6
		}
		w.pos += 4
	}
	w.pos++
	var s string
	if err := json.Unmarshal(w.data[start:w.pos], &s); err != nil {
		return "", syntaxAt(w.data, start, "%s", clip(err.Error()))
	}
	return s, nil
}

// hex reads four hex digits, which are known to be there.
func (w *walker) hex(at int) int {
	n := 0
	for _, b := range w.data[at:min(at+4, len(w.data))] {
		n <<= 4
		switch {
		case b >= '0' && b <= '9':
			n |= int(b - '0')
		case b >= 'a' && b <= 'f':
			n |= int(b-'a') + 10
		case b >= 'A' && b <= 'F':
			n |= int(b-'A') + 10
		}
	}
	return n
}

type fieldTable struct {
	types map[string]reflect.Type
	names []string
}

var fieldTables sync.Map // reflect.Type to *fieldTable

func fieldsOf(t reflect.Type) *fieldTable {
	if v, ok := fieldTables.Load(t); ok {
		return v.(*fieldTable)
	}
	ft := &fieldTable{types: map[string]reflect.Type{}}
	for f := range t.Fields() {
		name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		switch {
		case name == "-" || f.PkgPath != "" && !f.Anonymous:
			continue
		case name == "" && f.Anonymous && f.Type.Kind() == reflect.Struct:
			inner := fieldsOf(f.Type)
			for _, n := range inner.names {
				ft.types[n] = inner.types[n]
			}
			ft.names = append(ft.names, inner.names...)
			continue
		case name == "":
			name = f.Name
		}
		ft.types[name] = f.Type
		ft.names = append(ft.names, name)
	}
	v, _ := fieldTables.LoadOrStore(t, ft)
	return v.(*fieldTable)
}

// Suggest returns the candidate that is nearest to a mistyped word, or "" when
// none is near.
func Suggest(word string, candidates []string) string {
	if len(word) > 64 {
		return ""
	}
	best, least := "", max(1, len(word)/3)+1
	for _, c := range candidates {
		if d := distance(strings.ToLower(word), strings.ToLower(c)); d < least {
			best, least = c, d
		}
	}
	return best
}

// distance counts the insertions, deletions, replacements and swaps of
// neighbors between two words.
func distance(a, b string) int {
	rows := [3][]int{make([]int, len(b)+1), make([]int, len(b)+1), make([]int, len(b)+1)}
	before, last, row := rows[0], rows[1], rows[2]
	for j := range last {
		last[j] = j
	}
	for i := range len(a) {
		row[0] = i + 1
		for j := range len(b) {
			cost := last[j]
			if a[i] != b[j] {
				cost++
			}
			row[j+1] = min(cost, row[j]+1, last[j+1]+1)
			if i > 0 && j > 0 && a[i] == b[j-1] && a[i-1] == b[j] {
				row[j+1] = min(row[j+1], before[j-1]+1)
			}
		}
		before, last, row = last, row, before
	}
	return last[len(b)]
}
