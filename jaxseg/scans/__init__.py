"""Files to arrays and back, with their place in space.

In: PNG, TIFF and JPEG slices, NIfTI, NRRD and MetaImage files, DICOM series, from folders and
zips that nobody vouches for. Out: a `Volume` of axial slices [D, H, W, C], which knows how to
write a result on the voxels and in the format it came from. Begin with `volume.py`; each format
has a file of its own, DICOM three (`dicom_planes.py`: a header's numbers; `dicom_seg.py`:
results); `scan_files.py` knows those that keep a volume in a file. `files.py`, `blocks.py`,
`image_headers.py` and `decode.py` are the guards; whatever breaks a reader becomes one line
(`errors.named`). `regions.py` says what the values of a mask mean.
"""
