"""Files of datasets: COCO and VOC annotations, images."""
