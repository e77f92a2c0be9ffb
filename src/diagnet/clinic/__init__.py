"""DICOM out, and the DICOM network: structured reports, pictures, presentation states, marks, a listener."""
