"""What devices send each other, as programs for CPUs, TPUs and GPUs write it down."""

from pathlib import Path

import pytest

from xent.train.collectives import collectives_in, count, totals
from xent.train.compiled import refusal

# Shortened from programs for v5e and H200.
LOOP = """HloModule step, is_scheduled=true

%cond (p: (s32[], f32[8])) -> pred[] {
  %constant.2 = s32[]{:T(128)} constant(32)
  %p = (s32[], f32[8]{0}) parameter(0)
  %i = s32[] get-tuple-element(%p), index=0
  ROOT %lt = pred[]{:T(512)} compare(%i, %constant.2), direction=LT
}

%all-reduce-scatter.1 (x: f32[16,8]) -> f32[4,8] {
  %x = f32[16,8]{1,0:T(8,128)} parameter(0)
  %all-reduce.84 = f32[16,8]{1,0:T(8,128)} all-reduce(%x), replica_groups={{0,1,2,3}}, to_apply=%add
  ROOT %slice = f32[4,8]{1,0} dynamic-slice(%all-reduce.84, %i, %zero), dynamic_slice_sizes={4,8}
}

%body (p: (s32[], f32[8])) -> (s32[], f32[8]) {
  %fusion.1 = f32[4,8]{1,0} fusion(%y), kind=kCustom, calls=%all-reduce-scatter.1
  ROOT %t = (s32[], f32[8]{0}) tuple(%i, %z)
}

ENTRY %main (a: f32[8]) -> f32[8] {
  %while.1 = (s32[], f32[8]{0}) while(%init), condition=%cond, body=%body
}
"""
CASES = {
    "axes of a mesh": (
        "all-reduce(%a), replica_groups=mesh['axis_0'=32,'axis_1'=8] {'axis_1'}, to_apply=%add",
        "f32[128]{0:T(128)S(1)}", ("all-reduce", 512, 8, 896),
    ),
    "parts of axes": (
        "all-reduce(%a), replica_groups=mesh['axis_0'=32,'axis_1'=8] {'axis_0':(1)4,'axis_1'}, to_apply=%add",
        "f32[32]{0}", ("all-reduce", 128, 32, 248),
    ),
    "begun, of operand and result": (
        "all-gather-start(%a), replica_groups=[2,4]<=[8], dimensions={0}",
        "(bf16[2,8]{1,0}, bf16[8,8]{1,0})", ("all-gather", 128, 4, 96),
    ),
    "begun, of two operands and two results": (
        "collective-permute-start(%a, %b), source_target_pairs={{1,0},{0,1}}",
        "((f32[8]{0}, f32[8]{0}), (f32[8]{0}, f32[8]{0}), u32[], u32[])", ("collective-permute", 64, None, 64),
    ),
    "what goes in is shared out": (
        "reduce-scatter(%a), replica_groups=[2,4]<=[8], dimensions={0}, to_apply=%add",
        "f32[8]{0}", ("reduce-scatter", 128, 4, 96),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_kind_bytes_and_devices_are_read(name):
    instruction, result, expected = CASES[name]
    [found] = collectives_in(f'  %x.1 = {result} {instruction}, metadata={{op_name="jit(step)"}}')
    assert (found.kind, found.size, found.devices, found.received) == expected


def test_a_loop_counts_as_often_as_it_runs_and_an_all_reduce_that_is_cut_up_is_a_reduce_scatter():
    [found] = collectives_in(LOOP)
    assert (found.kind, found.times) == ("reduce-scatter", 32)
    assert found.received == 32 * 16 * 8 * 4 * 3 // 4
    noted = LOOP.replace("body=%body", 'body=%body, backend_config={"known_trip_count":{"n":"7"}}')
    assert collectives_in(noted)[0].times == 7
    assert collectives_in(LOOP.replace("direction=LT", "direction=NE"))[0].times == 1


def test_one_that_a_tpu_spreads_over_several_fusions_counts_once():
    line = "  %g.{} = f32[8]{{0}} all-gather(%a), channel_id={}, replica_groups=[1,4]<=[4], frontend_attributes={}\n"
    chain = '{{chain_id="{}"}}'.format
    text = "".join(line.format(n, channel, chain(c)) for n, channel, c in [(1, 5, 0), (2, 5, 0), (3, 6, 1)])
    assert count(collectives_in(text)) == {"all-gather": 2}
    assert totals(collectives_in(text))[0].received == 48


def test_a_compiled_loop_of_sums_is_read_right(on_eight_devices):
    found = on_eight_devices(Path(__file__).parent / "scan_of_sums.py")
    size = 32 * 128 * 4
    assert found == [["all-reduce", size, 4, 5, 5 * size * 2 * 3 // 4]]


@pytest.mark.parametrize(
    ("message", "wanted", "limit"),
    [
        ("Ran out of memory in memory space hbm. Used 34.50G of 15.75G hbm. Exceeded by 18.75G.", 34.5, 15.75),
        ("the total memory required for HLO temporaries (2.00T) exceeds available HBM (15.75G).", 2048, 15.75),
        ("something new", None, None),
    ],
)
def test_a_refusal_says_how_much_of_how_much(message, wanted, limit):
    found = refusal(RuntimeError(f"RESOURCE_EXHAUSTED: {message}\nand more"))
    assert [size and size / 2**30 for size in found[:2]] == [wanted, limit]
    assert found.reason == message


def test_gradients_that_are_sent_together_count_together():
    """XLA writes comments into the type of a tuple of more than five."""
    types = "f32[8]{0}, f32[8]{0}, f32[8]{0}, f32[8]{0}, f32[8]{0}, /*index=5*/f32[2,4]{1,0}"
    line = f"  %x = ({types}) all-reduce(%a, %b, %c, %d, %e, /*index=5*/%f), replica_groups=[1,4]<=[4], to_apply=%add"
    [found] = collectives_in(line)
    assert (found.kind, found.size, found.shapes[-1]) == ("all-reduce", 6 * 32, (2, 4))
