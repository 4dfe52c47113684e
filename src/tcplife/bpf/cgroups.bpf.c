// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * Sends the paths of cgroups as they are made: when a session is shown, its
 * owner's cgroup may be gone. Loaded if a column or a filter needs it. Only the
 * v2 hierarchy counts, which is where bpf_get_current_cgroup_id() looks.
 */
#include "cgroups.h"
#include "config.h"

#include <bpf/bpf_tracing.h>

char LICENSE[] SEC("license") = "Dual BSD/GPL";

#define PATH_SIZE 504

struct cgroup_event {
	__u64 id;
	char path[PATH_SIZE]; /* below the root, cut if it is longer */
};

/* Only so that the object's BTF has its layout. */
const struct cgroup_event *cgroup_event_layout = NULL;

/* Read whenever sessions are shown; each lives until then. */
struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 512 * 1024);
} events SEC(".maps");

SEC("tp_btf/cgroup_mkdir")
int BPF_PROG(cgroup_mkdir, struct cgroup *cgroup, const char *path)
{
	__u64 parent = BPF_CORE_READ(cgroup, self.parent, cgroup, kn, id);
	__u64 id = BPF_CORE_READ(cgroup, kn, id);
	struct cgroup_event *event;
	__u8 value = 1;

	if (BPF_CORE_READ(cgroup, root, hierarchy_id))
		return 0;
	if (cfg()->filter_cgroup && bpf_map_lookup_elem(&cgroups, &parent))
		bpf_map_update_elem(&cgroups, &id, &value, BPF_ANY);
	event = bpf_ringbuf_reserve(&events, sizeof(*event), 0);
	if (!event) /* then sessions in it are shown without its path */
		return 0;
	event->id = id;
	bpf_probe_read_kernel_str(event->path, sizeof(event->path), path);
	bpf_ringbuf_submit(event, BPF_RB_NO_WAKEUP);
	return 0;
}
