# SPDX-License-Identifier: Apache-2.0
# `make bpf` rebuilds what is committed of the kernel side; see CONTRIBUTING.md.

CLANG ?= clang-14
STRIP ?= llvm-strip-14
CLANG_FORMAT ?= clang-format-14
PYTHON ?= python3

BPF := src/tcplife/bpf
OBJECTS := $(patsubst %.c,%.o,$(wildcard $(BPF)/*.bpf.c))
# clang's bpf target does not look where Debian keeps <asm/types.h>.
MULTIARCH := $(shell $(CC) -print-multiarch)
BPF_CFLAGS := -target bpf -mcpu=v3 -O2 -g -Wall -Wextra -Wno-unused-parameter \
	-Werror -ffile-prefix-map=$(CURDIR)=. -I/usr/include/$(MULTIARCH)

.PHONY: bpf man format vmtest clean
bpf: $(OBJECTS) src/tcplife/layout.py

# Always made anew: the objects are committed, and a checkout has no order in time.
.PHONY: $(OBJECTS) src/tcplife/layout.py
$(OBJECTS): %.o: %.c
	$(CLANG) $(BPF_CFLAGS) -c $< -o $@
	$(STRIP) -g $@

src/tcplife/layout.py: $(OBJECTS)
	$(PYTHON) scripts/layout.py \
		$(BPF)/tcplife.bpf.o:owner,session_event,config,control \
		$(BPF)/holders.bpf.o:walk \
		$(BPF)/tcplife_full.bpf.o:story \
		$(BPF)/cgroups.bpf.o:cgroup_event \
		$(BPF)/tcpstates.bpf.o:state_event > $@

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
