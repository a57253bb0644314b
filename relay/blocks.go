package relay

import (
	"container/list"
	"context"
	"errors"
	"fmt"
	"slices"
	"sort"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
	"golang.org/x/sync/errgroup"

	"spillway/relay/filter"
	"spillway/relay/properties"
)

const (
	// blockFetchBytes is what one read of history asks of a partition. Kafka
	// answers with at least one batch, however large.
	blockFetchBytes = 256 << 10
	// blockFetchMinBytes is the least, and blockRecordBytes what a record is
	// taken for where few are wanted.
	blockFetchMinBytes = 16 << 10
	blockRecordBytes   = 1 << 10
	// blockFetchMaxBytes bounds the answer for all partitions of one broker.
	blockFetchMaxBytes = 16 << 20
	// recordOverhead is what a decoded record costs beside its bytes.
	recordOverhead = 256
	// outcomeOverhead is the same of what decoding has told of it.
	outcomeOverhead = 96
	// undecodableRest is how long a block is shared that has records which
	// another try may decode.
	undecodableRest = 2 * time.Second
	// fetchAttempts bounds how often a block is asked for while leaders move.
	fetchAttempts = 5
	// fetchBackoff is how much longer each attempt waits than the one before.
	fetchBackoff = 100 * time.Millisecond
)

// A block is a run of a partition as one fetch returned it. It is never changed.
type block struct {
	start, next int64         // it covers the offsets [start, next)
	records     []*kgo.Record // without control records and aborted ones
	bytes       int64         // of the records
	until       time.Time     // it is not shared after this; zero: no bound

	// postings find records by what filters ask for. They grow when a filter
	// asks for something new.
	postings filter.Postings
	entry    *blockEntry
}

// bytesOf is about how many bytes the block's last n records have.
func (b *block) bytesOf(n int) int64 {
	return b.bytes * int64(n) / int64(max(len(b.records), 1))
}

// after returns the records at or past offset.
func (b *block) after(offset int64) []*kgo.Record {
	i := sort.Search(len(b.records), func(i int) bool { return b.records[i].Offset >= offset })
	return b.records[i:]
}

// An outOfRangeError says that the log begins at start and ends at end, and the
// offset that was asked for is not within.
type outOfRangeError struct{ start, end int64 }

func (e *outOfRangeError) Error() string {
	return fmt.Sprintf("offset out of range: the log is [%d, %d)", e.start, e.end)
}

// A blockKey names a position in one partition of one life of a topic.
type blockKey struct {
	id        kadm.TopicID
	topic     string
	partition int32
}

type blockWant struct {
	info      *topicInfo
	partition int32
	offset    int64
	end       int64 // records from here on are not wanted now
}

// bytes is how much to ask for: not a whole block for the few records that a
// client missed while it reconnected.
func (w blockWant) bytes() int32 {
	return int32(min(max((w.end-w.offset)*blockRecordBytes, blockFetchMinBytes), blockFetchBytes))
}

// blocks reads history, and shares what it read: two requests for the same
// range are one fetch, and a block stays until HISTORY_CACHE_BYTES are full.
type blocks struct {
	client   *kgo.Client
	catalog  *catalog
	offsets  *offsets
	decoder  *decoder
	settings properties.FetchSettings
	maxBytes int64

	loads sync.WaitGroup // fetches under way; each ends by its own timeout

	mu      sync.Mutex
	byPart  map[blockKey][]*blockEntry // by start
	recent  *list.List                 // of *blockEntry, newest use in front
	bytes   int64
	fetches prometheus.Counter
	hits    prometheus.Counter
}

// A blockEntry is a block, or the promise of one.
type blockEntry struct {
	key    blockKey
	offset int64         // what was asked for; block.start equals it
	ready  chan struct{} // closed when block or err is set
	block  *block
	err    error
	use    *list.Element // nil while it is not ready, and when it is forgotten
	bytes  int64         // what it counts for
}

func newBlocks(client *kgo.Client, cat *catalog, offsets *offsets, decoder *decoder, settings properties.FetchSettings, maxBytes int64, reg prometheus.Registerer) *blocks {
	b := &blocks{
		client:   client,
		catalog:  cat,
		offsets:  offsets,
		decoder:  decoder,
		settings: settings,
		maxBytes: maxBytes,
		byPart:   make(map[blockKey][]*blockEntry),
		recent:   list.New(),
		fetches: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "spillway_history_fetches_total", Help: "Blocks of history that were read from Kafka.",
		}),
		hits: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "spillway_history_hits_total", Help: "Reads of history that shared a block.",
		}),
	}
	reg.MustRegister(b.fetches, b.hits, prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "spillway_history_cache_bytes", Help: "Bytes of history blocks held; HISTORY_CACHE_BYTES bounds them.",
	}, func() float64 {
		b.mu.Lock()
		defer b.mu.Unlock()
		return float64(b.bytes)
	}))
	return b
}

// get returns the blocks that hold the wanted offsets. Those that are missing
// are fetched together, one request per broker. errs[i] is nil, an
// *outOfRangeError, or errUnavailable.
func (b *blocks) get(ctx context.Context, wants []blockWant) (got []*block, errs []error) {
	entries := make([]*blockEntry, len(wants))
	var mine []*blockEntry
	var mineWants []blockWant
	b.mu.Lock()
	for i, w := range wants {
		e, found := b.find(w)
		if !found {
			mine, mineWants = append(mine, e), append(mineWants, w)
		} else {
			b.hits.Inc()
		}
		entries[i] = e
	}
	b.mu.Unlock()

	if len(mine) > 0 {
		b.fetches.Add(float64(len(mine)))
		// Others may wait for these too, so our client's leaving must not fail them.
		b.loads.Go(func() {
			ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), listOffsetsTimeout)
			defer cancel()
			b.fetchAll(ctx, mineWants, mine)
		})
	}
	got, errs = make([]*block, len(wants)), make([]error, len(wants))
	for i, e := range entries {
		select {
		case <-e.ready:
			got[i], errs[i] = e.block, e.err
		case <-ctx.Done():
			errs[i] = unavailable("read history", ctx.Err())
		}
	}
	return got, errs
}

// candidates returns those of the block's last records that f may pass.
func (b *blocks) candidates(blk *block, f *filter.Filter, records []*kgo.Record, seen *filter.Record) []*kgo.Record {
	before := blk.postings.Bytes()
	places, narrowed := blk.postings.Candidates(f, blk.records, seen)
	if grown := blk.postings.Bytes() - before; grown > 0 {
		b.grown(blk, grown)
	}
	if !narrowed {
		return records
	}
	first := int32(len(blk.records) - len(records))
	begin, _ := slices.BinarySearch(places, first)
	few := make([]*kgo.Record, 0, len(places)-begin)
	for _, i := range places[begin:] {
		few = append(few, blk.records[i])
	}
	return few
}

// find returns the entry that covers w, or a new promise. Call with mu held.
func (b *blocks) find(w blockWant) (e *blockEntry, found bool) {
	key := blockKey{w.info.id, w.info.name, w.partition}
	list := b.byPart[key]
	i := sort.Search(len(list), func(i int) bool { return list[i].offset > w.offset })
	if i > 0 {
		e := list[i-1]
		if e.block != nil && !e.block.until.IsZero() && time.Now().After(e.block.until) {
			b.discard(e)
			return b.find(w)
		}
		if e.offset == w.offset || (e.block != nil && w.offset < e.block.next) {
			if e.use != nil {
				b.recent.MoveToFront(e.use)
			}
			return e, true
		}
	}
	e = &blockEntry{key: key, offset: w.offset, ready: make(chan struct{})}
	list = append(list, nil)
	copy(list[i+1:], list[i:])
	list[i] = e
	b.byPart[key] = list
	return e, false
}

// settle fulfils a promise. A failed one is forgotten at once.
func (b *blocks) settle(e *blockEntry, blk *block, err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if blk != nil {
		blk.entry = e
	}
	e.block, e.err = blk, err
	close(e.ready)
	if err != nil {
		b.forget(e)
		return
	}
	e.use = b.recent.PushFront(e)
	e.bytes = blk.bytes
	b.bytes += e.bytes
	b.shrink()
}

// grown notes that a block has come to use more memory.
func (b *blocks) grown(blk *block, bytes int64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if e := blk.entry; e.use != nil {
		e.bytes += bytes
		b.bytes += bytes
		b.shrink()
	}
}

// shrink forgets blocks until the others fit. Call with mu held.
func (b *blocks) shrink() {
	for b.bytes > b.maxBytes && b.recent.Len() > 1 {
		b.discard(b.recent.Back().Value.(*blockEntry))
	}
}

// discard lets go of a block. Call with mu held.
func (b *blocks) discard(old *blockEntry) {
	b.recent.Remove(old.use)
	old.use = nil
	b.bytes -= old.bytes
	b.forget(old)
}

// forget takes an entry out of the look-up. Call with mu held.
func (b *blocks) forget(e *blockEntry) {
	list := b.byPart[e.key]
	for i, have := range list {
		if have == e {
			list = append(list[:i], list[i+1:]...)
			break
		}
	}
	if len(list) == 0 {
		delete(b.byPart, e.key)
		return
	}
	b.byPart[e.key] = list
}

// fetchAll reads every want and settles its entry.
func (b *blocks) fetchAll(ctx context.Context, wants []blockWant, entries []*blockEntry) {
	pending := make(map[int]error, len(wants)) // index → the latest reason that it is not there
	for i := range wants {
		pending[i] = nil
	}
	for attempt := 0; attempt < fetchAttempts && len(pending) > 0 && ctx.Err() == nil; attempt++ {
		if attempt > 0 {
			// Leaders moved, or a broker went away: look again where they are.
			// An election takes a moment.
			wait(ctx, time.Duration(attempt-1)*fetchBackoff)
			_ = b.catalog.refresh(ctx) // without it, the old leaders are tried again
		}
		byLeader := make(map[int32][]int)
		for i := range pending {
			leader := b.leader(wants[i])
			if leader < 0 {
				pending[i] = errors.New("partition has no leader")
				continue
			}
			byLeader[leader] = append(byLeader[leader], i)
		}
		var mu sync.Mutex
		var g errgroup.Group
		for leader, indexes := range byLeader {
			g.Go(func() error {
				results, err := b.fetch(ctx, leader, wants, indexes)
				for i, r := range results {
					if errors.Is(r.err, kerr.OffsetOutOfRange) {
						results[i] = fetched{err: b.outOfRange(ctx, wants[i])}
					}
				}
				mu.Lock()
				defer mu.Unlock()
				for _, i := range indexes {
					r, ok := results[i]
					switch {
					case err != nil:
						pending[i] = err
					case !ok:
						pending[i] = errors.New("the broker's answer left the partition out")
					case r.block != nil, isOutOfRange(r.err):
						b.settle(entries[i], r.block, r.err)
						delete(pending, i)
					default:
						pending[i] = r.err
					}
				}
				return nil
			})
		}
		_ = g.Wait() // the reasons are in pending
	}
	for i, err := range pending {
		if err == nil {
			err = ctx.Err()
		}
		b.settle(entries[i], nil, unavailable(fmt.Sprintf("read %s/%d at %d", wants[i].info.name, wants[i].partition, wants[i].offset), err))
	}
}

// outOfRange asks where the log begins and ends now, since the answer to a
// fetch leaves that out. The error is an *outOfRangeError, or why it is not
// known, or that the offset is there after all.
func (b *blocks) outOfRange(ctx context.Context, w blockWant) error {
	starts, err := b.offsets.starts(ctx, w.info.name, int(w.partition)+1)
	if err != nil {
		return err
	}
	ends, err := b.offsets.highWatermarks(ctx, w.info.name, int(w.partition)+1)
	if err != nil {
		return err
	}
	start, end := starts[w.partition], ends[w.partition]
	if start <= w.offset && w.offset <= end {
		return fmt.Errorf("offset was out of range, and is within [%d, %d] now", start, end)
	}
	return &outOfRangeError{start, end}
}

func isOutOfRange(err error) bool {
	var e *outOfRangeError
	return errors.As(err, &e)
}

// leader is the broker to ask, by the newest metadata of the same topic.
func (b *blocks) leader(w blockWant) int32 {
	info := w.info
	b.catalog.mu.Lock()
	if now := b.catalog.topics[info.name]; now != nil && now.id == info.id {
		info = now
	}
	b.catalog.mu.Unlock()
	if int(w.partition) >= info.partitions() {
		return -1
	}
	return info.leaders[w.partition]
}

type fetched struct {
	block *block
	err   error
}

// fetch sends one request to one broker.
func (b *blocks) fetch(ctx context.Context, leader int32, wants []blockWant, indexes []int) (map[int]fetched, error) {
	req := kmsg.NewPtrFetchRequest()
	req.MaxWaitMillis = int32(b.settings.MaxWait / time.Millisecond)
	req.MinBytes = 1
	req.MaxBytes = blockFetchMaxBytes
	if b.settings.ReadCommitted {
		req.IsolationLevel = 1
	}
	at := make(map[string]int)
	for _, i := range indexes {
		w := wants[i]
		t, ok := at[w.info.name]
		if !ok {
			t = len(req.Topics)
			at[w.info.name] = t
			rt := kmsg.NewFetchRequestTopic()
			rt.Topic, rt.TopicID = w.info.name, w.info.id
			req.Topics = append(req.Topics, rt)
		}
		rp := kmsg.NewFetchRequestTopicPartition()
		rp.Partition, rp.FetchOffset, rp.PartitionMaxBytes = w.partition, w.offset, w.bytes()
		req.Topics[t].Partitions = append(req.Topics[t].Partitions, rp)
	}
	kresp, err := b.client.Broker(int(leader)).RetriableRequest(ctx, req)
	if err != nil {
		return nil, err
	}
	resp := kresp.(*kmsg.FetchResponse)
	if err := kerr.ErrorForCode(resp.ErrorCode); err != nil {
		return nil, err
	}
	results := make(map[int]fetched, len(indexes))
	for _, rt := range resp.Topics {
		for j := range rt.Partitions {
			rp := &rt.Partitions[j]
			for _, i := range indexes {
				w := wants[i]
				if w.partition == rp.Partition && (w.info.name == rt.Topic || (rt.Topic == "" && w.info.id == kadm.TopicID(rt.TopicID))) {
					if r, ok := results[i]; ok && r.block != nil {
						continue
					}
					results[i] = b.decode(ctx, w, rp)
				}
			}
		}
	}
	return results, nil
}

func (b *blocks) decode(ctx context.Context, w blockWant, rp *kmsg.FetchResponseTopicPartition) fetched {
	opts := kgo.ProcessFetchPartitionOpts{
		KeepControlRecords:   true, // so that the block ends after them
		DisableCRCValidation: !b.settings.CheckCRCs,
		Offset:               w.offset,
		Topic:                w.info.name,
		Partition:            w.partition,
	}
	if b.settings.ReadCommitted {
		opts.IsolationLevel = kgo.ReadCommitted()
	}
	fp, next := kgo.ProcessFetchPartition(opts, rp, kgo.DefaultDecompressor(), nil)
	if errors.Is(fp.Err, kerr.OffsetOutOfRange) {
		return fetched{err: fp.Err} // it does not say where the log begins: see outOfRange
	}
	if fp.Err != nil {
		return fetched{err: fp.Err}
	}
	if next <= w.offset {
		return fetched{err: errors.New("no records yet")}
	}
	records := slices.DeleteFunc(fp.Records, func(r *kgo.Record) bool { return r.Attrs.IsControl() || r.Offset < w.offset })
	records, left, err := b.decoder.decode(ctx, w.info.name, records)
	if err != nil {
		return fetched{err: fmt.Errorf("decode: %w", err)}
	}
	if len(left) > 0 {
		next = left[0].Offset
	}
	blk := &block{start: w.offset, next: next, bytes: recordOverhead}
	for _, r := range records {
		blk.bytes += recordBytes(r)
		if o := outcomeOf(r); o != nil && o.mayChange && blk.until.IsZero() {
			blk.until = time.Now().Add(undecodableRest)
		}
	}
	blk.records = detached(records)
	return fetched{block: blk}
}

// detached copies records into memory of their own. As the library returns
// them they share that of the whole answer, so that one block would keep the
// answers for all partitions alive.
func detached(records []*kgo.Record) []*kgo.Record {
	bytes := 0
	for _, r := range records {
		bytes += len(r.Key) + len(r.Value)
		for _, h := range r.Headers {
			bytes += len(h.Value)
		}
	}
	arena := make([]byte, 0, bytes)
	keep := func(b []byte) []byte {
		if b == nil {
			return nil // is a tombstone, and empty is not
		}
		start := len(arena)
		arena = append(arena, b...)
		return arena[start:len(arena):len(arena)]
	}
	slab := make([]kgo.Record, len(records))
	copies := make([]*kgo.Record, len(records))
	for i, r := range records {
		slab[i] = kgo.Record{
			Key: keep(r.Key), Value: keep(r.Value), Headers: slices.Clone(r.Headers), Timestamp: r.Timestamp,
			Topic: r.Topic, Partition: r.Partition, Attrs: r.Attrs, Offset: r.Offset, Context: r.Context,
		}
		for j := range slab[i].Headers {
			h := &slab[i].Headers[j]
			h.Key, h.Value = strings.Clone(h.Key), keep(h.Value)
		}
		copies[i] = &slab[i]
	}
	return copies
}

func recordBytes(r *kgo.Record) int64 {
	n := len(r.Key) + len(r.Value) + recordOverhead
	if o := outcomeOf(r); o != nil {
		n += len(o.raw) + outcomeOverhead
	}
	for _, h := range r.Headers {
		n += len(h.Key) + len(h.Value)
	}
	return int64(n)
}

// wait waits for d, or until ctx ends.
func wait(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}
