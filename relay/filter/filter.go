package filter

import (
	"fmt"
	"maps"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"unicode/utf8"
	"weak"

	"cel.dev/cel-go/cel"
	"cel.dev/cel-go/common"
	"cel.dev/cel-go/common/ast"
	"cel.dev/cel-go/common/operators"
	"cel.dev/cel-go/common/types"
	"cel.dev/cel-go/common/types/ref"
)

// Limits bound what expressions may be.
type Limits struct {
	Length int    // of a filter or rule, in bytes; 0: 2048
	Key    int    // of all that a request selects by, in canonical form, in bytes; 0: 8192
	Cost   uint64 // of an evaluation, in CEL's steps; 0: 100,000
}

// A Compiler makes filters. It is safe for use by many goroutines, as filters are.
type Compiler struct {
	limits Limits
	env    *environment

	evaluations, errs, refused atomic.Int64

	programs shared[program] // by text
	trees    shared[tree]    // by the names of their paths
}

// NewCompiler returns a compiler within limits.
func NewCompiler(limits Limits) (*Compiler, error) {
	env, err := newEnvironment()
	if err != nil {
		return nil, fmt.Errorf("make CEL environment: %w", err)
	}
	if limits.Length == 0 {
		limits.Length = 2048
	}
	if limits.Key == 0 {
		limits.Key = 8192
	}
	if limits.Cost == 0 {
		limits.Cost = 100_000
	}
	return &Compiler{limits: limits, env: env}, nil
}

// Evaluations is how often an expression was evaluated by CEL. Clauses that an
// index or a comparison decides are not among them.
func (c *Compiler) Evaluations() int64 { return c.evaluations.Load() }

// Errs is how many of the evaluations erred, and so did not match.
func (c *Compiler) Errs() int64 { return c.errs.Load() }

// Refused is how many expressions and selections exceeded one of the limits.
func (c *Compiler) Refused() int64 { return c.refused.Load() }

const (
	paramFilter = "filter"
	paramRule   = "rule"
)

// A Spec is what one request selects by. All of it has to hold.
type Spec struct {
	Keys       []string            // any of them
	Partitions []int32             // any of them
	Headers    map[string][]string // by name, any of its values is any of these
	Expr       string              // filter=
	Visible    []string            // headers that the request may see, for Headers and Expr; nil: all
	Rule       *Rule               // of the operator; nil: none
	Claims     map[string]any      // of who asks, as JSON decodes them, for the rule
}

// A Rule is an operator's expression, which may use claims.
type Rule struct{ expr ast.Expr }

// CompileRule reads a rule. The error is a *SyntaxError.
func (c *Compiler) CompileRule(text string) (*Rule, error) {
	if err := c.check(c.env.rule, paramRule, text); err != nil {
		return nil, err
	}
	e, err := c.parse(text)
	if err != nil {
		return nil, &SyntaxError{Param: paramRule, Message: err.Error()}
	}
	return &Rule{e}, nil
}

// Compile makes the filter of a request; nil is everything. The error is a
// *SyntaxError.
func (c *Compiler) Compile(s Spec) (*Filter, error) {
	if n := s.length(); n > c.limits.Key {
		return nil, c.tooLong(n)
	}
	conjuncts, hidden := s.params()
	if hidden {
		conjuncts = append(conjuncts, literalExpr(types.False))
	}
	if s.Expr != "" {
		if err := c.check(c.env.client, paramFilter, s.Expr); err != nil {
			return nil, err
		}
		e, err := c.parse(s.Expr)
		if err == nil {
			canon := canon{visible: s.Visible}
			conjuncts = append(conjuncts, canon.expr(e, true))
			err = canon.err
		}
		if err != nil {
			return nil, &SyntaxError{Param: paramFilter, Message: err.Error()}
		}
	}
	if s.Rule != nil {
		canon := canon{claims: s.Claims}
		if canon.claims == nil {
			canon.claims = map[string]any{}
		}
		conjuncts = append(conjuncts, canon.expr(s.Rule.expr, true))
		if canon.err != nil {
			return nil, &SyntaxError{Param: paramRule, Message: canon.err.Error()}
		}
	}
	return c.build(conjuncts)
}

// Parse makes the filter that has a key. It trusts the key to be one: a client
// could ask for more with it than with a filter.
func (c *Compiler) Parse(key string) (*Filter, error) {
	if key == "" {
		return nil, nil
	}
	if len(key) > c.limits.Key {
		return nil, c.tooLong(len(key))
	}
	e, err := c.parse(key)
	if err != nil {
		return nil, &SyntaxError{Param: paramFilter, Message: err.Error()}
	}
	var canon canon
	return c.build([]ast.Expr{canon.expr(e, true)})
}

func (c *Compiler) tooLong(length int) error {
	return c.beyond(paramFilter, "all that is selected by is %d bytes long; %d are the most", length, c.limits.Key)
}

// beyond is the error for what exceeds a limit.
func (c *Compiler) beyond(param, format string, args ...any) *SyntaxError {
	c.refused.Add(1)
	return &SyntaxError{Param: param, Message: fmt.Sprintf(format, args...)}
}

func (c *Compiler) parse(text string) (ast.Expr, error) {
	parsed, errs := c.env.plain.Parse(common.NewTextSource(text))
	if len(errs.GetErrors()) > 0 {
		return nil, fmt.Errorf("%s", errs.GetErrors()[0].Message)
	}
	return parsed.Expr(), nil
}

// length is how much text the parameters have. It is looked at before anything
// is made of them.
func (s *Spec) length() (n int) {
	for _, key := range s.Keys {
		n += len(key)
	}
	for _, values := range s.Headers {
		for _, v := range values {
			n += len(v)
		}
	}
	return n + len(s.Partitions)
}

// params are the parameters as expressions in canonical form. hidden says that
// one asks for a header that may not be seen.
func (s *Spec) params() (conjuncts []ast.Expr, hidden bool) {
	if len(s.Keys) > 0 {
		conjuncts = append(conjuncts, in(exprs.NewIdent(0, "key"), textList(s.Keys)))
	}
	if len(s.Partitions) > 0 {
		list := make([]ast.Expr, len(s.Partitions))
		for i, p := range s.Partitions {
			list[i] = literalExpr(types.Int(p))
		}
		conjuncts = append(conjuncts, in(exprs.NewIdent(0, "partition"), exprs.NewList(0, list, nil)))
	}
	for _, name := range slices.Sorted(maps.Keys(s.Headers)) {
		if s.Visible != nil && !slices.Contains(s.Visible, name) {
			hidden = true
		}
		list := exprs.NewList(0, sortLiterals(textList(s.Headers[name]).AsList().Elements()), nil)
		conjuncts = append(conjuncts, exprs.NewCall(0, anyHeader, exprs.NewIdent(0, "headers"), literalExpr(types.String(name)), list))
	}
	return conjuncts, hidden
}

func textList(texts []string) ast.Expr {
	list := make([]ast.Expr, len(texts))
	for i, text := range texts {
		var v ref.Val = types.String(text)
		if !utf8.ValidString(text) {
			v = types.Bytes(text)
		}
		list[i] = literalExpr(v)
	}
	return exprs.NewList(0, list, nil)
}

// A Filter says which records a view shows. A nil one shows all.
type Filter struct {
	key        string
	never      bool
	partitions []int32 // nil: all; never empty
	clauses    []clause
	tree       *tree // of the clauses' paths into value; nil: there are none
	rest       *program
}

// A program is what of filters only CEL can evaluate. Filters share it.
type program struct {
	c *Compiler
	p cel.Program
}

// build makes a filter of expressions in canonical form, all of which have to hold.
func (c *Compiler) build(conjuncts []ast.Expr) (*Filter, error) {
	var flat []ast.Expr
	for _, e := range conjuncts {
		flat = flatten(flat, operators.LogicalAnd, e)
	}
	whole := joinLogical(operators.LogicalAnd, flat, true)
	f := &Filter{}
	if b, ok := boolOf(whole); ok {
		if b {
			return nil, nil
		}
		f.never = true
	}
	f.key = text(whole)
	if len(f.key) > c.limits.Key {
		return nil, c.tooLong(len(f.key))
	}
	if f.never {
		return f, nil
	}
	var rest []ast.Expr
	for _, e := range flatten(nil, operators.LogicalAnd, whole) {
		if partitions, ok := partitionsOf(e); ok {
			f.restrict(partitions)
		} else if clause, ok := clauseOf(e); ok {
			f.clauses = append(f.clauses, clause)
		} else {
			rest = append(rest, e)
		}
	}
	if f.partitions != nil && len(f.partitions) == 0 { // two lists that have none in common
		return &Filter{key: f.key, never: true}, nil
	}
	slices.SortStableFunc(f.clauses, func(a, b clause) int {
		switch {
		case a.before(&b):
			return -1
		case b.before(&a):
			return 1
		}
		return 0
	})
	f.tree = c.number(f.clauses)
	if len(rest) == 0 {
		return f, nil
	}
	var err error
	if f.rest, err = c.program(text(joinLogical(operators.LogicalAnd, rest, true))); err != nil {
		return nil, &SyntaxError{Param: paramFilter, Message: err.Error()}
	}
	return f, nil
}

func (f *Filter) restrict(partitions []int32) {
	if f.partitions == nil {
		f.partitions = partitions
		return
	}
	f.partitions = slices.DeleteFunc(f.partitions, func(p int32) bool { return !slices.Contains(partitions, p) })
}

// program returns the program of an expression, the same for the same text.
func (c *Compiler) program(text string) (*program, error) {
	return c.programs.get(text, func() (*program, error) {
		p, err := c.plan(text)
		return &program{c, p}, err
	})
}

// number gives the paths of clauses into value their numbers in a tree, which is
// the same for the same paths: very many filters look at the same ones. It is
// nil where there are none.
func (c *Compiler) number(clauses []clause) *tree {
	var t tree
	var names []byte
	for i := range clauses {
		if c := &clauses[i]; c.root == inValue {
			c.number = t.add(c.names)
			names = c.appendName(names)
		}
	}
	if t.count == 0 {
		return nil
	}
	kept, _ := c.trees.get(string(names), func() (*tree, error) { return &t, nil }) // which cannot fail
	return kept
}

// shared are things that filters share, each as long as one of them has it.
type shared[T any] struct {
	mu     sync.Mutex
	byText map[string]weak.Pointer[T]
}

// get returns the thing of a text, which it makes if nobody has it.
func (s *shared[T]) get(text string, make func() (*T, error)) (*T, error) {
	s.mu.Lock()
	p := s.byText[text].Value()
	s.mu.Unlock()
	if p != nil {
		return p, nil
	}
	p, err := make()
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if other := s.byText[text].Value(); other != nil {
		return other, nil
	}
	if s.byText == nil {
		s.byText = map[string]weak.Pointer[T]{}
	}
	s.byText[text] = weak.Make(p)
	runtime.AddCleanup(p, s.forget, text)
	return p, nil
}

// forget takes out what nobody has any more.
func (s *shared[T]) forget(text string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.byText[text].Value() == nil {
		delete(s.byText, text)
	}
}

// Key is the canonical text of the filter: equal selections have the same, and
// Parse makes the filter of it again. It is empty for everything.
func (f *Filter) Key() string {
	if f == nil {
		return ""
	}
	return f.key
}

// Never reports whether no record can be shown, whatever is in it.
func (f *Filter) Never() bool { return f != nil && f.never }

// Partitions are those whose records the filter may show, in order; nil: all.
// Some may not exist. They are not to be changed.
func (f *Filter) Partitions() []int32 {
	if f == nil {
		return nil
	}
	return f.partitions
}

// ByKey reports whether the filter shows either all records of a key in a
// partition or none.
func (f *Filter) ByKey() bool {
	return f == nil || f.rest == nil && !slices.ContainsFunc(f.clauses, func(c clause) bool { return c.root != inKey })
}

// Evaluates reports whether an expression is evaluated for records that nothing
// else has decided.
func (f *Filter) Evaluates() bool { return f != nil && f.rest != nil }

// Match reports whether the filter shows a record.
func (f *Filter) Match(r *Record) bool {
	return f == nil || f.matchBut(r, -1)
}

// matchBut is Match where clause number known is known to hold.
func (f *Filter) matchBut(r *Record, known int) bool {
	if f.never || f.partitions != nil && !slices.Contains(f.partitions, r.r.Partition) {
		return false
	}
	inValues := 0
	for i := range f.clauses {
		switch c := &f.clauses[i]; {
		case i == known:
		case c.root == inValue:
			inValues++ // later: it takes longer
		case !c.matchesHead(r):
			return false
		}
	}
	if inValues > 0 && !f.matchValues(r, known) {
		return false
	}
	return f.rest == nil || f.rest.match(r)
}

func (f *Filter) matchValues(r *Record, known int) bool {
	parsed := r.val != nil || r.scans == manyScans
	if !parsed {
		r.scans++
		r.scan(f.tree, &r.values)
		defer r.values.reset()
	}
	for i := range f.clauses {
		c := &f.clauses[i]
		if i == known || c.root != inValue {
			continue
		}
		var s scalar
		if parsed {
			s = r.member(c.names)
		} else {
			s = r.values.at[c.number]
		}
		if !c.matches(&s) {
			return false
		}
	}
	return true
}

func (p *program) match(r *Record) bool {
	p.c.evaluations.Add(1)
	got, _, err := p.p.Eval((*activation)(r))
	if b, ok := got.(types.Bool); ok && err == nil {
		return bool(b)
	}
	p.c.errs.Add(1)
	return false
}
