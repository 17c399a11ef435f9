"""The rows of nights, whose cells are simulated (tests/test_nightly.py and beside it)."""

from __future__ import annotations

from collections.abc import Iterator

from tests.faults.table import Row

_NIGHTLY, _CLUSTER, _FAULTS, _KEEP = (
    f"../test_{name}.py" for name in ("nightly", "night_cluster", "night_faults", "keep")
)


def _rows() -> Iterator[Row]:
    def row(file: str, name: str, when: str, fault: str, outcome: str, *, long: bool = False) -> Row:
        return Row(f"night-{name.replace('_', '-')}", when, fault, "", outcome, f"{file}::test_{name}", long=long)

    one, runs, hosts = "`nightly`", "`nightly` runs cells", "`nightly --on` runs cells"
    on = "`nightly --resume` goes on; no cell is lost, none has two runs"
    yield row(
        _NIGHTLY, "a_matrix_that_is_not_right_is_told", one, "an empty matrix, unknown keys and words", "Status 2"
    )
    told = "It is told as a lab error, status 3; the others run"
    yield row(_NIGHTLY, "a_cell_that_cannot_exist_is_told_and_the_others_run", one, "no such platform", told)
    three = "Three attempts, then quarantine, status 3; the others run"
    quarantine = "a_lab_that_fails_three_times_is_quarantined_and_the_others_go_on"
    yield row(_NIGHTLY, quarantine, runs, "an image or a runtime cannot be had", three)
    ended = "It is ended with all its processes; three attempts"
    yield row(_NIGHTLY, "a_cell_that_takes_too_long_is_ended_with_all_its_processes", runs, "a cell hangs", ended)
    yield row(_NIGHTLY, "a_night_killed_at_every_point_goes_on_and_loses_nothing", one, "SIGKILL to labkit", on)
    yield row(
        _NIGHTLY, "ctrl_c_ends_a_night_in_order_and_it_goes_on", one, "SIGINT", f"Ends in order, status 130; {on}"
    )
    second = "Status 3, naming the process and since when"
    yield row(_NIGHTLY, "a_second_night_says_that_one_runs_and_who_has_it_since_when", one, "a night runs", second)
    lost = "The attempt counts as lost, the next one is taken"
    damaged = "a bundle is cut, another, no archive, has links"
    yield row(_NIGHTLY, "a_damaged_bundle_costs_one_attempt", "a bundle is brought home", damaged, lost)
    newer = "A newer one: status 2; a damaged one: status 3; a new night begins"
    table = "the table of the night is damaged, or of a newer labkit"
    yield row(_NIGHTLY, "a_table_of_a_newer_labkit_and_a_damaged_one_are_told", "`nightly --resume`", table, newer)
    alone = "It is told, and the last nights alone say what is new"
    history = "the history is of a newer labkit, or cannot be opened"
    yield row(_NIGHTLY, "without_the_history_a_night_judges_by_the_last_nights", "a night ends", history, alone)
    mirror = "It is told; what it was last night stays"
    moved = "a_mirror_with_other_packages_makes_another_image_and_that_is_told"
    yield row(_NIGHTLY, moved, one, "a mirror does not answer", mirror)
    ref = "a_ref_that_has_moved_makes_another_image_and_that_is_told"
    yield row(_NIGHTLY, ref, one, "a ref, or its repository, is gone", mirror)
    full = f"Status 3, saying what is full; {on}, and nothing that was run is run again"
    yield row(_FAULTS, "a_disk_of_reports_that_is_full_in_the_middle", runs, "the disk of the reports is full", full)
    home = "The attempt is lost or the night ends with status 3, saying what is full; with space, it is run again"
    yield row(_FAULTS, "a_disk_of_the_home_that_is_full_in_the_middle", runs, "the disk of the home is full", home)
    other = "the reports are on another file system than the home"
    yield row(_FAULTS, "reports_on_another_file_system", one, other, "Nothing is different")
    clock = "No cell is late or early for it; nights and runs keep their order"
    yield row(_FAULTS, "a_clock_that_jumps_while_a_night_runs", runs, "the clock jumps, back or ahead", clock)
    many = "many_nights_some_of_them_killed_leave_an_exact_history_and_a_bounded_disk"
    exact = "Every verdict is as it was; the disk is bounded by nights.keep"
    yield row(_KEEP, many, "`nightly` and `gc`, 20 times", "SIGKILL to labkit, the clock is set back", exact)
    early = "The next `gc` removes the rest; the history is whole"
    yield row(_KEEP, "a_gc_that_ended_early_is_gone_on_with", "`gc` removes nights", "SIGKILL, SIGINT to labkit", early)
    stays = "All nights stay, which is told"
    unkept = "without_a_history_that_can_be_written_nothing_of_nights_goes"
    yield row(_KEEP, unkept, "`gc` removes nights", "the history is of a newer labkit", stays)
    elsewhere = "Its cells run elsewhere; what they leave is fetched or goes"
    frozen = "a host freezes for longer than half a minute, and thaws"
    yield row(_FAULTS, "a_host_that_freezes_and_thaws", hosts, frozen, elsewhere)
    down = "a_host_that_goes_down_costs_its_cells_an_attempt_and_no_more"
    yield row(_CLUSTER, down, hosts, "a host goes down", "Its cells run elsewhere")
    cut = "Attempts are lost, and no cell"
    cable = "a_network_that_is_cut_for_two_minutes_costs_attempts_and_no_cell"
    yield row(_CLUSTER, cable, hosts, "the network is cut for two minutes", cut, long=True)
    yield row(_CLUSTER, "a_killed_night_goes_on_and_its_workers_are_gone", hosts, "SIGKILL to labkit", on)
    version = "It gets no cells, which is told"
    yield row(_CLUSTER, "a_host_with_another_labkit_gets_nothing", hosts, "a host has another labkit", version)
    unreached = "a_host_that_cannot_be_reached_gets_nothing_and_alone_it_ends_the_night"
    yield row(_CLUSTER, unreached, hosts, "a host does not answer", f"{version}; status 3 where there is no other")
    dies = "The night goes on with another scheduler, or ends in order and can be gone on with"
    yield row(_FAULTS, "a_scheduler_that_dies", "`nightly --scheduler` runs cells", "SIGKILL to the scheduler", dies)
    refused = "Status 3: it cannot be reached"
    certificate = "a_scheduler_of_another_certificate_is_refused"
    yield row(_FAULTS, certificate, "`nightly --scheduler`", "the scheduler's certificate is another's", refused)


ROWS = list(_rows())
