"""data.json of a run; see `tasks.data_record`, which sampling and evaluation share."""

from entprog.tasks.data_record import read_data_record

__all__ = ["read_data_record"]
