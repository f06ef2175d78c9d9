package api

// ImageState is the state of an image.
type ImageState string

// The states of an image.
const (
	ImagePending  ImageState = "pending" // recorded, content not yet on a node
	ImageReady    ImageState = "ready"
	ImageDeleting ImageState = "deleting"
)

// Image is content that volumes are cloned from, or a kernel or initrd. It is
// found by its checksum, wherever it lives.
type Image struct {
	ID        ID     `json:"id" msg:"id,omitempty"`
	Namespace string `json:"namespace" msg:"namespace,omitempty"`
	Name      string `json:"name" msg:"name,omitempty"`
	// Kind is disk, kernel or initrd.
	Kind        string     `json:"kind" msg:"kind,omitempty"`
	Format      string     `json:"format" msg:"format,omitempty"` // qcow2 or raw; declared, checked, never probed
	Size        Bytes      `json:"size" msg:"size,omitempty"`
	VirtualSize Bytes      `json:"virtual_size,omitempty" msg:"virtual_size,omitempty"`
	SHA256      string     `json:"sha256" msg:"sha256,omitempty"` // 64 hex digits of the content
	Labels      Pairs      `json:"labels,omitempty" msg:"labels,omitempty"`
	State       ImageState `json:"state" msg:"state,omitempty"`
	// Replicas are the nodes that hold and have checked the content.
	Replicas    []ID  `json:"replicas,omitempty" msg:"replicas,omitempty"`
	CreateTime  Time  `json:"create_time,omitempty" msg:"create_time,omitempty"`
	CreateIndex Index `json:"create_index,omitempty" msg:"create_index,omitempty"`
	ModifyIndex Index `json:"modify_index,omitempty" msg:"modify_index,omitempty"`
	// Sources are addresses of nodes that hold it; filled in orders only.
	Sources []string `json:"sources,omitempty" msg:"sources,omitempty"`
}

// ImageUpload is the first message of an upload (Image.Upload, then Chunks).
type ImageUpload struct {
	Namespace string `json:"namespace,omitempty" msg:"namespace,omitempty"`
	Name      string `json:"name" msg:"name,omitempty"`
	Kind      string `json:"kind,omitempty" msg:"kind,omitempty"`     // default disk
	Format    string `json:"format,omitempty" msg:"format,omitempty"` // default qcow2 for disks, raw else
	Size      Bytes  `json:"size" msg:"size,omitempty"`
	SHA256    string `json:"sha256" msg:"sha256,omitempty"`
	Labels    Pairs  `json:"labels,omitempty" msg:"labels,omitempty"`
	// ID is given by the servers when they pass an upload on to a node
	// (Agent.ImagePut); what a user sets is not looked at.
	ID ID `json:"id,omitzero" msg:"id,omitempty"`
}

// ImageFetch asks a node for the content of an image; Chunks follow.
type ImageFetch struct {
	ID     ID     `json:"id" msg:"id,omitempty"`
	SHA256 string `json:"sha256" msg:"sha256,omitempty"`
	Offset int64  `json:"offset,omitempty" msg:"offset,omitempty"`
}

// ImageResponse is one image.
type ImageResponse struct {
	QueryMeta `json:"meta" msg:"meta,omitempty"`
	Image     *Image `json:"image" msg:"image,omitempty"`
	// UsedBy counts the volumes cloned from it.
	UsedBy int32 `json:"used_by,omitempty" msg:"used_by,omitempty"`
}

// ImageListResponse is a page of images.
type ImageListResponse struct {
	QueryMeta `json:"meta" msg:"meta,omitempty"`
	Items     []*Image `json:"items" msg:"items,omitempty"`
}
