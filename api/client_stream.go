package api

import (
	"bufio"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"io"
	"net/http"
	"strconv"
)

//msgp:ignore EventsClient EventStream ImagesClient counting

// EventsClient holds the calls about events.
type EventsClient struct{ c *Client }

// Events returns the calls about events.
func (c *Client) Events() EventsClient { return EventsClient{c} }

// List returns the newest events that the servers still hold.
func (e EventsClient) List(ctx context.Context, l *EventListRequest) (*EventListResponse, error) {
	if l == nil {
		l = &EventListRequest{}
	}
	r := e.c.read("/v1/events/list", &l.QueryOptions).set("related", l.Related)
	for _, t := range l.Topics {
		r.query.Add("topic", t)
	}
	if l.Limit != 0 {
		r.query.Set("limit", strconv.Itoa(int(l.Limit)))
	}
	return get[EventListResponse](ctx, e.c, r)
}

// Stream opens a stream of events. It stays open until Close or the end of ctx.
func (e EventsClient) Stream(ctx context.Context, s *EventRequest) (*EventStream, error) {
	if s == nil {
		s = &EventRequest{}
	}
	r := e.c.read("/v1/events", &QueryOptions{Namespace: s.Namespace})
	r.accept = "application/x-ndjson"
	for _, t := range s.Topics {
		r.query.Add("topic", t)
	}
	if s.Index != 0 {
		r.query.Set("index", strconv.FormatUint(s.Index, 10))
	}
	if s.Snapshot {
		r.query.Set("snapshot", "true")
	}
	ctx, cancel := context.WithCancel(ctx)
	resp, err := e.c.open(ctx, r)
	if err != nil {
		cancel()
		return nil, err
	}
	return &EventStream{ctx: ctx, cancel: cancel, c: e.c, body: resp.Body, dec: json.NewDecoder(bufio.NewReader(resp.Body))}, nil
}

// EventStream is an open stream of events.
type EventStream struct {
	ctx    context.Context
	cancel context.CancelFunc
	c      *Client
	body   io.ReadCloser
	dec    *json.Decoder
	index  Index
}

// Next waits for the next batch that is not a heartbeat. A batch with Gap says
// that events are missing before it. It returns io.EOF when the agent ends the
// stream: open it again with the last Index.
func (s *EventStream) Next() (*EventBatch, error) {
	for {
		var line struct {
			EventBatch
			Error *Error `json:"error"`
		}
		if err := s.dec.Decode(&line); err != nil {
			if s.ctx.Err() == nil && err == io.EOF {
				return nil, io.EOF
			}
			return nil, s.c.unreachable(s.ctx, err)
		}
		if line.Error != nil {
			return nil, line.Error
		}
		if line.Index > s.index {
			s.index = line.Index
		}
		if !line.Heartbeat {
			return &line.EventBatch, nil
		}
	}
}

// Index is the last index seen, to resume with.
func (s *EventStream) Index() Index { return s.index }

// Close ends the stream.
func (s *EventStream) Close() error {
	s.cancel()
	return s.body.Close()
}

// ImagesClient holds the calls about images.
type ImagesClient struct{ c *Client }

// Images returns the calls about images.
func (c *Client) Images() ImagesClient { return ImagesClient{c} }

// List returns a page of images.
func (i ImagesClient) List(ctx context.Context, q *QueryOptions) (*ImageListResponse, error) {
	return get[ImageListResponse](ctx, i.c, i.c.read("/v1/images", q))
}

// Get returns one image.
func (i ImagesClient) Get(ctx context.Context, key string, q *QueryOptions) (*ImageResponse, error) {
	return one[ImageResponse](ctx, i.c, "/v1/image/%s", key, q)
}

// Delete removes an image; volumes cloned from it keep what they need.
func (i ImagesClient) Delete(ctx context.Context, d *DeleteRequest, o *WriteOptions) (*WriteMeta, error) {
	return del(ctx, i.c, "/v1/image/%s", d, o)
}

// Upload sends the content of an image, of which size and SHA-256 must be said
// before. progress, if not nil, is told the bytes sent so far.
func (i ImagesClient) Upload(ctx context.Context, u *ImageUpload, content io.Reader, progress func(int64)) (*ImageResponse, error) {
	r := i.c.write(http.MethodPost, "/v1/images", nil).
		set("namespace", u.Namespace).set("name", u.Name).set("kind", u.Kind).set("format", u.Format).set("sha256", u.SHA256)
	r.query.Set("size", strconv.FormatInt(int64(u.Size), 10))
	for _, l := range u.Labels {
		r.query.Add("label", l.K+"="+l.V)
	}
	r.header.Set("Content-Type", "application/octet-stream")
	r.header.Set("Expect", "100-continue")
	r.body, r.length = &counting{r: content, report: progress}, max(int64(u.Size), 0)
	return get[ImageResponse](ctx, i.c, r)
}

// Download writes the content of an image to w and checks its SHA-256. It
// returns the number of bytes; after an error what was written is not whole.
func (i ImagesClient) Download(ctx context.Context, key string, q *QueryOptions, w io.Writer, progress func(int64)) (int64, error) {
	img, err := i.Get(ctx, key, q)
	if err != nil {
		return 0, err
	}
	r := i.c.read("/v1/image/"+seg(img.Image.ID.String())+"/content", &QueryOptions{Namespace: img.Image.Namespace})
	r.accept = "application/octet-stream"
	resp, err := i.c.open(ctx, r)
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	sum := sha256.New()
	n, err := io.Copy(w, io.TeeReader(&counting{r: resp.Body, report: progress}, sum))
	if err != nil {
		return n, i.c.unreachable(ctx, err)
	}
	if got := hex.EncodeToString(sum.Sum(nil)); got != img.Image.SHA256 {
		return n, Errorf(CodeImageBad, "the content has the SHA-256 %s instead of %s", got, img.Image.SHA256)
	}
	return n, nil
}

// counting tells how many bytes have passed.
type counting struct {
	r      io.Reader
	n      int64
	report func(int64)
}

func (c *counting) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.n += int64(n)
	if c.report != nil && n > 0 {
		c.report(c.n)
	}
	return n, err
}
