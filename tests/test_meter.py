from invbench.meter import Meter


def test_whole_batch_and_members_add_up() -> None:
    meter = Meter(3)
    meter.count("applications", 10)
    meter.view([0, 2, 2]).count("adjoints", 5)
    assert meter.total("applications").tolist() == [1, 1, 1]
    assert meter.total("adjoints").tolist() == [1, 0, 2]
    assert meter.multiply_adds.tolist() == [15, 10, 20]
    assert meter.mean == meter.multiply_adds.mean() == 15


def test_view_of_a_view_charges_the_right_instance() -> None:
    meter = Meter(4)
    view = meter.view([1, 3]).view([1])
    view.count("gram_solves", 7, times=2)
    assert meter.multiply_adds.tolist() == [0, 0, 0, 14]
    assert view.multiply_adds.tolist() == [14]
    assert view.mean == 14
