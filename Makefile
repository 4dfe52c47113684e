# SPDX-License-Identifier: Apache-2.0
# `make bpf` rebuilds what is committed of the kernel side; see CONTRIBUTING.md.

CLANG ?= clang-14
STRIP ?= llvm-strip-14
CLANG_FORMAT ?= clang-format-14
PYTHON ?= python3

BPF := src/tcplife/bpf
OBJECTS := $(patsubst %.c,%.o,$(wildcard $(BPF)/*.bpf.c))
# The tiers for older kernels; see bpf/tier.h.
OLDER := $(foreach tier,2 3 4,$(patsubst %,$(BPF)/%_$(tier).bpf.o,\
	tcplife tcplife_full tcpstates))
# clang's bpf target does not look where Debian keeps <asm/types.h>.
MULTIARCH := $(shell $(CC) -print-multiarch)
BPF_CFLAGS := -target bpf -O2 -g -Wall -Wextra -Wno-unused-parameter \
	-Werror -ffile-prefix-map=$(CURDIR)=. -I/usr/include/$(MULTIARCH)
BUILD = $(CLANG) $(BPF_CFLAGS) -c $< -o $@ && $(STRIP) -g $@

.PHONY: bpf headers man format vmtest clean
bpf: $(OBJECTS) $(OLDER) src/tcplife/records/abi.py

# Always made anew: the objects are committed, and a checkout has no order in time.
.PHONY: $(OBJECTS) $(OLDER) src/tcplife/records/abi.py
# Atomic compare and exchange takes Linux 5.12.
$(OBJECTS): BPF_CFLAGS += -mcpu=v3
$(OBJECTS): %.o: %.c
	$(BUILD)
$(OLDER): BPF_CFLAGS += -mcpu=v2
$(filter %_2.bpf.o,$(OLDER)): $(BPF)/%_2.bpf.o: $(BPF)/%.bpf.c
	$(BUILD:-c=-DTIER=2 -c)
$(filter %_3.bpf.o,$(OLDER)): $(BPF)/%_3.bpf.o: $(BPF)/%.bpf.c
	$(BUILD:-c=-DTIER=3 -c)
$(filter %_4.bpf.o,$(OLDER)): $(BPF)/%_4.bpf.o: $(BPF)/%.bpf.c
	$(BUILD:-c=-DTIER=4 -c)

src/tcplife/records/abi.py: $(OBJECTS) $(OLDER)
	$(PYTHON) scripts/layout.py \
		$(BPF)/tcplife.bpf.o:owner,session_event,config,counts,control \
		$(BPF)/holders.bpf.o:walk \
		$(BPF)/tcplife_2.bpf.o:parked \
		$(BPF)/tcplife_full.bpf.o:story,owner_more \
		$(BPF)/cgroups.bpf.o:cgroup_event \
		$(BPF)/tcplife_summary.bpf.o:session_group,session_totals,bucket_key,hot_state,hot_bucket \
		$(BPF)/tcplife_summary.bpf.o:by,dir,end,first,histogram,limit,quantity \
		$(BPF)/tcpstates_summary.bpf.o:state_group,state_totals \
		$(BPF)/tcpstates.bpf.o:state_event > $@

# Each header compiles by itself, for each object that it is part of; and so does what
# --ebpf prints.
CHECK := $(CLANG) $(BPF_CFLAGS) -mcpu=v3 -I$(BPF) -fsyntax-only -x c
# The tools define on_change(), and summary.h add_to().
ALONE := $(CHECK) -Wno-undefined-internal
OF_SUMMARIES := quantity.h summary.h
OF_SESSIONS := older.h record.h
OF_STORIES := walk.h
HEADERS := $(filter-out $(OF_SUMMARIES) $(OF_SESSIONS) $(OF_STORIES) %_groups.h,\
	$(notdir $(wildcard $(BPF)/*.h)))
headers:
	@set -e; \
	alone() { for header in $$2; do $(ALONE) $$1 -include $$header /dev/null || \
		{ echo "$$header does not stand alone: $$1"; exit 1; }; done; }; \
	for tier in 1 2 3 4; do \
		alone "-DTIER=$$tier" "$(HEADERS) $(OF_SESSIONS)"; \
		alone "-DTIER=$$tier -DSTORY=1" "$(HEADERS) $(OF_SESSIONS)"; \
		alone "-DTIER=$$tier -DSTATES=1" "$(HEADERS)"; \
	done; \
	alone "-DSTORY=1" "$(OF_STORIES)"; \
	alone "-DSTORY=1 -DSUMMARY=1" "$(HEADERS) $(OF_SESSIONS) $(OF_STORIES) \
		$(OF_SUMMARIES) session_groups.h"; \
	alone "-DSTATES=1 -DSUMMARY=1" "$(HEADERS) $(OF_SUMMARIES) state_groups.h"; \
	for tier in 1 2 3 4; do \
		for tool in tcplife "tcplife --end failed" tcplife.cli.tcpstates; do \
			text=$$(PYTHONPATH=src $(PYTHON) -m $$tool --ebpf --tier $$tier); \
			test -n "$$text"; \
			printf '%s\n' "$$text" | $(CHECK) -Wno-unused-function -; \
		done; \
	done

man:
	PYTHONPATH=src $(PYTHON) scripts/man.py tcplife > docs/tcplife.8
	PYTHONPATH=src $(PYTHON) scripts/man.py tcpstates > docs/tcpstates.8

format:
	$(CLANG_FORMAT) -i $(BPF)/*.c $(BPF)/*.h benchmarks/*.c

# All kernels, or those chosen: make vmtest KERNEL=6.1 ARCH=arm64
vmtest:
	scripts/vmtest $(if $(KERNEL),--kernel $(KERNEL)) $(if $(ARCH),--arch $(ARCH))

clean:
	rm -rf build dist .venv .test
