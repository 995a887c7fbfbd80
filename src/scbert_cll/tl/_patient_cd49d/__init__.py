"""The verb ``tl.patient_cd49d``."""
